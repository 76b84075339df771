"""Trainings as a program, to be launched alone or by torchrun: settings as JSON, losses as JSON lines of rank 0.

python train_job.py MODEL_DIR WORKDIR SETTINGS [MODEL_DIR WORKDIR SETTINGS ...] [--pause SECONDS] [--student DIR]
"""

import argparse
import json
import sys
import time
import warnings
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
    parser.add_argument("--student", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    words = iter(args.trainings)
    trainings = [
        (Path(model), Path(workdir), SETTINGS.model_copy(update=json.loads(changes)))
        for model, workdir, changes in zip(words, words, words, strict=True)
    ]

    def on_step(report: loop.StepReport) -> None:
        if distributed.launched_rank() == 0:
            print(json.dumps({"step": report.step, "loss": report.loss, "norm": report.grad_norm}), flush=True)
            time.sleep(args.pause)
            if report.step == args.stop_at:
                raise TennerError("stop here")

    try:
        with distributed.join(shard_over=trainings[0][2].shard_over) as world:
            for model, workdir, settings in trainings:
                result = loop.train(model, samples(), settings, seed=0, workdir=workdir, on_step=on_step, world=world)
                if args.student:
                    loop.finish(result, model, args.student, workdir, base_model="tiny")
    except TennerError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


main()
