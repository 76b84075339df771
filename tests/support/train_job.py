"""Trainings as a program, to be launched alone or by torchrun: settings as JSON, losses as JSON lines of rank 0.

python train_job.py MODEL_DIR WORKDIR SETTINGS [MODEL_DIR WORKDIR SETTINGS ...] [--pause SECONDS] [--stop-at STEP]
                    [--save] [--longest TOKENS]

With --stop-at each training ends with that step, as at the budget's cap; with --save its student is WORKDIR-student.
As many processes share each row as the first training's settings say.
"""

import argparse
import json
import sys
import time
import warnings
from functools import partial
from pathlib import Path

warnings.simplefilter("error")
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")

import torch  # noqa: E402
from tiny_training import SETTINGS, samples  # noqa: E402

from tenner.core.errors import TennerError  # noqa: E402
from tenner.training import distributed, loop  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("trainings", nargs="+", help="one after the other, of a model, a folder and settings each")
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--stop-at", type=int)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--longest", type=int, default=80, help="sample, in tokens")
    args = parser.parse_args()
    torch.set_num_threads(1)
    words = iter(args.trainings)
    trainings = [
        (Path(model), Path(workdir), SETTINGS.model_copy(update=json.loads(changes)))
        for model, workdir, changes in zip(words, words, words, strict=True)
    ]

    def on_step(training: int, report: loop.StepReport) -> None:
        if distributed.launched_rank() == 0:
            row = {"training": training, "step": report.step, "loss": report.loss, "norm": report.grad_norm}
            print(json.dumps(row), flush=True)
            time.sleep(args.pause)
            if report.step == args.stop_at:
                raise TennerError("stop here")

    try:
        first = trainings[0][2]
        with distributed.join(shard_over=first.shard_over, context_parallel=first.context_parallel) as world:
            for i, (model, workdir, settings) in enumerate(trainings):
                try:
                    result = loop.train(
                        model, samples(longest=args.longest), settings, seed=0, workdir=workdir,
                        on_step=partial(on_step, i), world=world,
                    )  # fmt: skip
                except (TennerError, SystemExit):  # the first process, and the others
                    if args.stop_at is None:
                        raise
                    continue
                if args.save:
                    loop.finish(result, model, Path(f"{workdir}-student"), workdir, base_model="tiny")
    except TennerError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


main()
