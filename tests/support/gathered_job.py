"""What the first of several processes takes, beyond what it had, to hold a sharded model in one piece: bytes, printed.

python gathered_job.py MODEL_DIR, by torchrun
"""

import gc
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")

import psutil  # noqa: E402
import torch  # noqa: E402
from tiny_training import SETTINGS  # noqa: E402

from tenner.core import hardware  # noqa: E402
from tenner.training import distributed, model_loading  # noqa: E402


def main() -> None:
    torch.set_num_threads(1)
    settings = SETTINGS.model_copy(update={"precision": "bf16"})
    folder = Path(sys.argv[1])
    with distributed.join() as world:
        learner = model_loading.load(folder, settings, world, seed=0)
        gc.collect()
        before = psutil.Process().memory_info().rss
        Path("/proc/self/clear_refs").write_text("5")  # the most so far counts from here
        whole = model_loading.unsharded(learner, folder, settings, world)
        most = hardware.peak_memory_bytes()
        if whole.model is not None:
            print(most - before, flush=True)


main()
