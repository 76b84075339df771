import os
import platform
import subprocess
import sys

import pytest

from tenner.training.allocator import ask_for_expandable_segments


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_memory_is_kept_within_and_given_back_after():
    """In a process of its own, since it changes how the whole process allocates."""
    script = """
import psutil
from tenner.training.allocator import freed_memory_kept
resident_mb = lambda: psutil.Process().memory_info().rss >> 20
before = resident_mb()
with freed_memory_kept():
    blocks = [bytearray(b"x") * (50 << 20) for _ in range(4)]
    del blocks
    within = resident_mb()
print(within - before, resident_mb() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    kept_mb, left_mb = map(int, done.stdout.split())
    assert kept_mb >= 190
    assert left_mb <= 20


@pytest.mark.parametrize(
    ("own", "then"), [({}, "expandable_segments:True"), ({"PYTORCH_ALLOC_CONF": "backend:native"}, None)]
)
def test_a_users_own_setting_of_the_gpus_allocator_stands(own, then, monkeypatch):
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        monkeypatch.setenv(name, "")  # so that what is set below is taken back
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    ask_for_expandable_segments()
    assert os.environ.get("PYTORCH_CUDA_ALLOC_CONF") == then
