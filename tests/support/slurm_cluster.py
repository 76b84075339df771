"""A real Slurm on this machine: munge, a controller and two nodes of it, in a folder, for as long as a block lasts."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tiny_training import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MailProg=/bin/true
MpiDefault=none
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port={node_ports} CPUs=1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def is_installed() -> bool:
    """Whether Slurm is here, and this user may start its daemons."""
    return os.geteuid() == 0 and all(shutil.which(program) for program in PROGRAMS)


class Cluster(NamedTuple):
    """How it is spoken to."""

    environment: dict[str, str]

    def call(self, *words: object) -> str:
        """What a command of Slurm's says."""
        done = subprocess.run(list(map(str, words)), env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What the controller knows of a job."""
        told = self.call("scontrol", "show", "job", number).split()
        return dict(word.split("=", 1) for word in told if "=" in word)

    def wait_for(self, number: str, *states: str, seconds: float = 90) -> dict[str, str]:
        """The job, once it is in one of the states."""
        until = time.monotonic() + seconds
        while (job := self.job(number))["JobState"] not in states:
            assert time.monotonic() < until, job
            time.sleep(0.3)
        return job


@contextmanager
def slurm(folder: Path) -> Iterator[Cluster]:
    """Two nodes of a core each, ready."""
    (folder / "state").mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    settings = {
        "host": socket.gethostname().split(".")[0], "user": getpass.getuser(), "folder": folder,
        "controller_port": free_port(), "node_ports": f"{free_port()},{free_port()}",
    }  # fmt: skip
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(**settings))
    cluster = Cluster({**os.environ, "SLURM_CONF": str(configuration)})
    munge = ["--key-file", key, "--socket", folder / "munge.socket", "--pid-file", folder / "munge.pid"]
    munge += ["--log-file", folder / "munge.log", "--seed-file", folder / "munge.seed"]
    with ExitStack() as stack:

        def daemon(*command: object) -> None:
            log = stack.enter_context(open(folder / f"{command[0]}-{command[-1]}.log".replace("/", "_"), "wb"))
            words: list[Any] = list(map(str, command))
            process = subprocess.Popen(words, env=cluster.environment, stdout=log, stderr=log)
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)

        daemon("munged", "--foreground", "--force", *munge)
        _until(lambda: (folder / "munge.socket").exists())
        daemon("slurmctld", "-D", "-c")
        for node in ("n1", "n2"):
            daemon("slurmd", "-D", "-N", node)
        _until(lambda: cluster.call("sinfo", "-h", "-o", "%D %T") == "2 idle")
        stack.callback(lambda: cluster.call("scancel", "--user", getpass.getuser()))
        yield cluster


def _until(there: Any, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            if there():
                return
        except AssertionError:  # the controller does not answer yet
            pass
        assert time.monotonic() < until
        time.sleep(0.2)
