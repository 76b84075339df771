"""A short training of a model as a program, alone in its process: prints the most memory it took as JSON.

python memory_job.py MODEL SETTINGS SAMPLE_TOKENS WORKDIR

SAMPLE_TOKENS is a number, or A-B for one sample of each of these lengths.
"""

import json
import sys
from pathlib import Path

from tenner.training.allocator import ask_for_huge_pages

ask_for_huge_pages()

import torch  # noqa: E402

from tenner.core.hardware import peak_memory_bytes  # noqa: E402
from tenner.core.sections import Train  # noqa: E402
from tenner.core.seeds import rng  # noqa: E402
from tenner.training import loop  # noqa: E402
from tenner.training.loss_mask import Encoded  # noqa: E402

STEPS = 2


def main() -> None:
    model, settings = Path(sys.argv[1]), Train(**json.loads(sys.argv[2]))
    (first, _, last), workdir = sys.argv[3].partition("-"), Path(sys.argv[4])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    draw = rng(0, "memory")
    count = STEPS * settings.tokens_per_step // int(first)
    lengths = range(int(first), int(last) + 1) if last else [int(first)] * count
    ids = [tuple(draw.randrange(vocabulary) for _ in range(tokens)) for tokens in lengths]
    samples = [Encoded(str(i), sample, (True,) * len(sample)) for i, sample in enumerate(ids)]
    loop.train(model, samples, settings, seed=0, workdir=workdir / "checkpoint", on_step=lambda _: None)
    print(json.dumps({"bytes": peak_memory_bytes()}))


main()
