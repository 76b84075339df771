import subprocess
import sys

from tenner.core.seeds import digest, rng


def test_digest_keeps_the_borders_of_its_parts():
    assert digest("ab", "c") != digest("a", "bc")


def test_neighbouring_seeds_share_nothing():
    drawn = [[rng(seed, "select").random() for _ in range(50)] for seed in (42, 43)]
    assert not set(drawn[0]) & set(drawn[1])


def test_draws_do_not_depend_on_the_hash_seed_of_the_process():
    code = "from tenner.core.seeds import rng; print(rng(7, 'x', 'y').random())"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert outputs == {f"{rng(7, 'x', 'y').random()}\n"}
