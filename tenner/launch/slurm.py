"""A run as a Slurm job of one or many nodes: the batch script, and its submission.

Every node runs `tenner launch --on local`; the first keeps the run, and all meet at a rendezvous to train. A preempted
job is started again by Slurm itself. A step told to stop otherwise (scancel --signal=TERM, the time limit) ends
with exit code 75, and the script has the job queued again. A job that ended for the cap is not.
"""

import math
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tenner import __version__
from tenner.core.errors import Preempted, TennerError
from tenner.launch.job import Job

OWN = {"nodes", "ntasks-per-node", "time", "signal", "requeue", "no-requeue", "open-mode", "output"}
"""Options of sbatch that are set here."""
SCRIPT = """\
# tenner {version}: {recipe} in {run_dir}
{options}

trap : TERM  # the step is told as well; what it ends with is looked at below
since=${{SLURM_JOB_START_TIME:-$(date +%s)}}
{others}
srun --nodes=1 --ntasks=1 --relative=0 --cpu-bind=none {command} {first}--rented-since "$since"
code=$?
{ended}if [ "$code" -eq {preempted} ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""
OTHERS = """\
rendezvous=$(hostname):$((20000 + SLURM_JOB_ID % 20000))  # this script runs on the first node
srun --nodes={count} --ntasks={count} --relative=1 --cpu-bind=none \\
    bash -c 'exec "$@" --node-rank $((SLURM_NODEID + 1))' other {command} --rendezvous "$rendezvous" &
others=$!
"""
"""The nodes beside the first are a step of their own: how the first one ends is how the job ends."""


def script(job: Job, seconds: float) -> str:
    """The batch script of a job that may take so long. Raises TennerError for an option of sbatch that is set here."""
    minutes = max(1, math.floor(seconds / 60))
    given = [option.partition("=") for option in job.options]
    if taken := sorted({key.strip("-") for key, _, _ in given} & OWN):
        raise TennerError(f"--option {taken[0]} is set by tenner itself", hint="leave it out")
    options = {
        "job-name": f"tenner-{job.described.name}",
        "nodes": str(job.nodes),
        "ntasks-per-node": "1",
        "time": f"{minutes // 60}:{minutes % 60:02}:00",
        "signal": f"TERM@{math.ceil(job.grace_seconds)}",
        "requeue": "",
        "open-mode": "append",
        "output": f"{job.run_dir}.slurm.log".replace("%", "%%"),
        "exclusive": "",
    }
    if job.gpus is not None:
        job.gpu_count()
        options["gpus-per-node"] = job.gpus
    if any(key.strip("-") in ("cpus-per-task", "oversubscribe") for key, _, _ in given):
        del options["exclusive"]
    options |= {key.strip("-"): value for key, _, value in given}
    lines = [f"#SBATCH --{key}={_quoted(value)}" if value else f"#SBATCH --{key}" for key, value in options.items()]
    # The first line is sbatch's, and the options must come before any command:
    head = "#!/bin/bash\n"
    command = shlex.join([sys.executable, "-m", "tenner", *job.words()])
    several = job.nodes > 1
    return head + SCRIPT.format(
        version=__version__,
        recipe=job.recipe,
        run_dir=job.run_dir,
        options="\n".join(lines),
        command=command,
        others=OTHERS.format(count=job.nodes - 1, command=command) if several else "",
        first='--rendezvous "$rendezvous" --node-rank 0 ' if several else "",
        ended='kill "$others" 2>/dev/null\nwait "$others"\n' if several else "",
        preempted=Preempted.exit_code,
    )


def _quoted(value: str) -> str:
    """As sbatch reads it in a script: there a space begins another option, and a # a comment."""
    return re.sub(r"""([\s"'#\\])""", r"\\\1", value)


def submit(text: str) -> str:
    """Hand the script in, and return the job's number. Raises TennerError where Slurm does not take it."""
    if shutil.which("sbatch") is None:
        raise TennerError("sbatch is not here", hint="submit from a login node; --dry-run prints the script")
    done = subprocess.run(["sbatch", "--parsable"], input=text, capture_output=True, text=True)
    if done.returncode:
        raise TennerError(f"sbatch refused the job: {done.stderr.strip()}", hint="--dry-run prints the script")
    return done.stdout.strip().partition(";")[0]


def told(job: Job, number: str) -> str:
    """Where to look for a job that was handed in."""
    return f"job {number}: {Path(job.run_dir)}.slurm.log; squeue -j {number}; tenner show {job.run_dir}"
