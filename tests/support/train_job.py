"""A training as a program, to be launched alone or by torchrun: settings as JSON, losses as JSON lines of rank 0.

python train_job.py MODEL_DIR WORKDIR SETTINGS [--pause SECONDS] [--student DIR]
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
    parser.add_argument("model", type=Path)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("settings", type=json.loads)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--stop-at", type=int)
    parser.add_argument("--student", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = SETTINGS.model_copy(update=args.settings)

    def on_step(report: loop.StepReport) -> None:
        if distributed.launched_rank() == 0:
            print(json.dumps({"step": report.step, "loss": report.loss, "norm": report.grad_norm}), flush=True)
            time.sleep(args.pause)
            if report.step == args.stop_at:
                raise TennerError("stop here")

    try:
        with distributed.join(shard_over=settings.shard_over) as world:
            result = loop.train(
                args.model, samples(), settings, seed=0, workdir=args.workdir, on_step=on_step, world=world
            )
            if args.student:
                loop.finish(result, args.model, args.student, args.workdir, base_model="tiny")
    except TennerError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


main()
