"""One training step over one long sample with a large vocabulary, as a program: prints its memory as JSON.

python long_sample_job.py MODEL_DIR WORKDIR TOKENS
"""

import json
import sys
from pathlib import Path

import psutil
import torch

from tenner.core.hardware import peak_memory_bytes
from tenner.core.sections import Train
from tenner.core.seeds import rng
from tenner.training import attention, loop, student
from tenner.training.allocator import ask_for_huge_pages
from tenner.training.loss_mask import Encoded


def main() -> None:
    model_dir, workdir, tokens = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    ask_for_huge_pages()
    model = student.load(model_dir, torch.float32, attention.NAME)
    draw, vocabulary = rng(0, "long sample"), model.config.vocab_size
    in_use_bytes = psutil.Process().memory_info().rss  # not the peak, which loading reaches by chance
    del model
    ids = tuple(draw.randrange(vocabulary) for _ in range(tokens))
    sample = Encoded("long", ids, tuple(at >= 100 for at in range(tokens)))
    settings = Train(epochs=1, lr=1e-3, tokens_per_step=tokens, tokens_max=tokens)
    reports: list[loop.StepReport] = []
    loop.train(model_dir, [sample], settings, seed=0, workdir=workdir, on_step=reports.append)
    (report,) = reports
    print(json.dumps({"above_bytes": peak_memory_bytes() - in_use_bytes, "tokens": report.tokens, "loss": report.loss}))


main()
