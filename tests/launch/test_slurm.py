"""The batch script, and what is refused before anything is handed in."""

import shlex
import subprocess

import pytest
from commands import tenner_here

from tenner.core import recipe
from tenner.core.errors import BudgetReached, TennerError
from tenner.launch import slurm
from tenner.launch.job import Job

DEMO = recipe.load("demo", overrides=["budget_usd=10", "machine.price_usd_per_hour=32"])
JOB = Job(DEMO, "demo", "/runs/a run", overrides=("train.lr=1e-3",), budget_usd=12.5, nodes=2, gpus="h100:8")


def test_the_script_asks_for_what_the_cap_pays_and_starts_a_tenner_on_each_node(tmp_path):
    seconds = JOB.seconds(12.5, tmp_path)
    assert seconds == 12.5 / 32 * 3600
    text = slurm.script(JOB._replace(options=("partition=gpu", "--mail-type=END")), seconds)
    options = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert {"nodes=2", "ntasks-per-node=1", "time=0:23:00", "signal=TERM@120", "requeue", "exclusive"} <= set(options)
    assert {"gpus-per-node=h100:8", "partition=gpu", "mail-type=END", r"output=/runs/a\ run.slurm.log"} <= set(options)
    assert (
        "tenner launch demo --on local --run-dir '/runs/a run' --set train.lr=1e-3 --budget-usd 12.5 --nodes 2" in text
    )
    assert '--rendezvous "$rendezvous" --node-rank 0 --rented-since "$since"' in text
    assert "srun --nodes=1 --ntasks=1 --relative=1" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


def test_what_sbatch_would_split_or_leave_out_is_quoted():
    """Its rules are the shell's as far as spaces, quotes, backslashes and comments go; % begins a field."""
    job = JOB._replace(run_dir="""/runs/my "run" #1 at 50%""", options=("comment=it's a trial",))
    lines = [line for line in slurm.script(job, 600).splitlines() if line.startswith("#SBATCH")]
    read = [shlex.split(line.removeprefix("#SBATCH"), comments=True) for line in lines]
    assert ["""--output=/runs/my "run" #1 at 50%%.slurm.log"""] in read
    assert ["--comment=it's a trial"] in read


def test_the_cap_is_handed_on_to_the_cent():
    words = JOB._replace(budget_usd=12345.67, grace_seconds=1234567).words()
    assert words[words.index("--budget-usd") + 1] == "12345.67"
    assert words[words.index("--grace-seconds") + 1] == "1234567"


def test_one_node_needs_no_rendezvous_and_a_share_of_it_is_not_exclusive():
    text = slurm.script(JOB._replace(nodes=1, options=("cpus-per-task=4",)), 600)
    assert "rendezvous" not in text
    assert "--exclusive" not in text


def test_an_option_that_is_set_here_is_refused():
    with pytest.raises(TennerError, match="--option time is set by tenner itself"):
        slurm.script(JOB._replace(options=("time=5:00",)), 600)


def test_the_length_of_a_job_comes_from_the_cap_or_the_hours(tmp_path):
    assert JOB._replace(hours=0.25).seconds(12.5, tmp_path) == 900
    free = JOB._replace(described=recipe.load("demo", overrides=["machine.price_usd_per_hour=0"]))
    assert free._replace(hours=2.0).seconds(10, tmp_path) == 7200
    with pytest.raises(TennerError, match="the cap sets no end"):
        free.seconds(10, tmp_path)
    with pytest.raises(BudgetReached, match=r"\$1.0000 are left under the cap of \$1: 112 s"):
        JOB.seconds(1.0, tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--on", "local", "--gpus", "8"], "--gpus has no effect with --on local"),
        (["--on", "local", "--hours", "8"], "--hours has no effect with --on local"),
        (["--on", "slurm", "--spot"], "--spot has no effect with --on slurm"),
        (["--on", "slurm", "--rented-since", "1"], "--rented-since has no effect with --on slurm"),
        (["--on", "slurm", "--hours", "0"], "--hours 0 are 0 s, and a job needs more than the 120 s"),
        (["--on", "slurm", "--hours=-1"], "--hours -1 are -3600 s"),
        (["--on", "slurm", "--grace-seconds", "0"], "--grace-seconds 0 leave a job no time"),
        (["--on", "slurm", "--gpus", "many"], "--gpus many is not a number of GPUs"),
        (["--on", "skypilot", "--gpus", "H100:8"], "a machine's disk is lost with it"),
        (["--on", "skypilot", "--gpus", "8", "--bucket", "s3://b"], "SkyPilot needs to know which card"),
        (["--on", "local", "--grace-seconds", "9"], "--grace-seconds has no effect without --rented-since"),
        (["--on", "local", "--nodes", "2"], "--nodes, --rendezvous HOST:PORT and --node-rank belong together"),
        (["--on", "local", "--processes", "0"], "--processes 0 is not a number of processes"),
        (["--on", "local", "--processes", "2", "--set", "train.shard_over=3"], "2 processes cannot share copies"),
        (["--on", "local", "--processes", "2", "--set", "train.context_parallel=3"], "2 processes cannot share rows"),
        (["--on", "local", "--set", "train.context_parallel=2"], "one process cannot share rows between 2 each"),
    ],
)
def test_options_without_effect_or_sense_are_refused(tmp_path, words, said):
    done = tenner_here("launch", "demo", "--run-dir", tmp_path / "run", "--dry-run", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_cards_of_the_recipe_are_spread_over_the_nodes():
    words = ["launch", "s1k-32b", "--on", "slurm", "--dry-run", "--run-dir", "runs/none", "--nodes"]
    assert "#SBATCH --gpus-per-node=8\n" in tenner_here(*words, 2).stdout
    refused = tenner_here(*words, 3)
    assert (refused.returncode, "16 cards cannot be spread over 3 nodes" in refused.stderr) == (2, True)


def test_a_dry_run_prints_the_script(tmp_path):
    done = tenner_here("launch", "demo", "--on", "slurm", "--run-dir", tmp_path / "run", "--dry-run")
    assert done.returncode == 0
    assert done.stdout.startswith("#!/bin/bash\n# tenner ")
    assert list(tmp_path.iterdir()) == []
