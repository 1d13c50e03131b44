"""Real servers for the tests, on loopback, in folders of their own, stopped by their own process ids.

They come from Debian's packages: postgresql, slurm-wlm, slurmdbd, munge, mariadb-server. Run as root.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.ports import free_ports

NEEDED = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd")


def wait_for(what: str, ready: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until `ready` says so."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"{what} did not come up"
        time.sleep(0.2)


def listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Whether a server, and nobody else, listens on a port; it must not have ended."""
    assert process.poll() is None, f"{process.args} ended"
    with contextlib.suppress(psutil.Error):  # it ends just now
        sockets = psutil.Process(process.pid).net_connections("tcp")
        return any((s.status, s.laddr.port) == (psutil.CONN_LISTEN, port) for s in sockets if s.laddr)
    return False


@contextlib.contextmanager
def running(
    command: Sequence[str],
    log: Path,
    user: str | None = None,
    stop: signal.Signals = signal.SIGTERM,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, stopped at the end."""
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, user=user, env=environment, cwd=log.parent
        )
    try:
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def owned(folder: Path, user: str) -> Path:
    """A new folder that belongs to a system user, who can get there."""
    folder.mkdir(parents=True)
    shutil.chown(folder, user)
    for parent in folder.parents:
        if parent == Path("/tmp"):
            break
        parent.chmod(parent.stat().st_mode | 0o011)
    return folder


@contextlib.contextmanager
def started(start: Callable[[Path], contextlib.AbstractContextManager[Any]], folder: Path) -> Iterator[Any]:
    """Servers, started once more with other ports where they don't come up: another process may have been faster."""
    with contextlib.ExitStack() as stack:
        try:
            (folder / "first").mkdir()
            value = stack.enter_context(start(folder / "first"))
        except AssertionError:
            (folder / "second").mkdir()
            value = stack.enter_context(start(folder / "second"))
        yield value


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """A PostgreSQL server with a password; yields the URL of an empty database."""
    (programs,) = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
    data, (port,), password = owned(folder / "postgresql", "postgres"), free_ports(1), secrets.token_hex(8)
    (folder / "password").write_text(password)
    shutil.chown(folder / "password", "postgres")
    initdb = [str(programs / "initdb"), "-D", str(data / "data"), "-U", "optuna", "-A", "scram-sha-256"]
    subprocess.run([*initdb, f"--pwfile={folder}/password"], check=True, capture_output=True, user="postgres", cwd=data)
    command = [str(programs / "postgres"), "-D", str(data / "data"), "-p", str(port), "-k", str(data)]
    options, log = ["-c", "listen_addresses=127.0.0.1"], folder / "postgresql.log"
    with running([*command, *options], log, "postgres", signal.SIGINT) as process:
        wait_for("PostgreSQL", lambda: listens(port, process))
        yield f"postgresql://optuna:{password}@127.0.0.1:{port}/postgres"


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """A Slurm cluster of one node, with accounting (submitit asks `sacct`); yields the variables to use it with."""
    control, node, accounts, database = free_ports(4)
    munge, maria = owned(folder / "munge", "munge"), owned(folder / "mariadb", "mysql")
    munge_socket, key = munge / "socket", munge / "key"
    key.write_bytes(secrets.token_bytes(128))
    shutil.chown(key, "munge")
    key.chmod(0o400)
    _write_slurm_configuration(folder, munge_socket, control, node, accounts, database)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    with contextlib.ExitStack() as stack:

        def start(name: str, *command: str, user: str | None = None) -> subprocess.Popen[bytes]:
            return stack.enter_context(running(command, folder / f"{name}.log", user, environment=environment))

        munged = ("munged", "-F", "--force", f"--key-file={key}", f"--socket={munge_socket}", f"--pid-file={munge}/pid")
        start("munged", *munged, f"--log-file={munge}/log", f"--seed-file={munge}/seed", user="munge")
        wait_for("munge", munge_socket.exists)
        _start_mariadb(stack, folder, maria, database)
        slurmdbd = start("slurmdbd", "slurmdbd", "-D")
        wait_for("slurmdbd", lambda: listens(accounts, slurmdbd))
        add = ["sacctmgr", "-i", "add", "cluster", "test"]
        wait_for(
            "sacctmgr", lambda: subprocess.run(add, env=environment, capture_output=True, check=False).returncode == 0
        )
        slurmctld = start("slurmctld", "slurmctld", "-D")
        wait_for("slurmctld", lambda: listens(control, slurmctld))
        slurmd = start("slurmd", "slurmd", "-D", "-N", socket.gethostname())

        def is_idle() -> bool:
            assert slurmd.poll() is None, "slurmd ended"
            said = subprocess.run(
                ["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True, check=False
            )
            return said.stdout.strip() == "idle"

        wait_for("the node", is_idle)
        yield {"SLURM_CONF": environment["SLURM_CONF"]}


def _write_slurm_configuration(
    folder: Path, munge_socket: Path, control: int, node: int, accounts: int, database: int
) -> None:
    """slurm.conf and slurmdbd.conf of a cluster whose one node is this machine, and the folders they name."""
    host, cores = socket.gethostname(), os.cpu_count() or 1
    shared = f"AuthType=auth/munge\nAuthInfo=socket={munge_socket}\nSlurmUser=root\n"
    (folder / "slurm.conf").write_text(
        f"""{shared}ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=1,batch_sched_delay=0
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounts}
AccountingStoragePass={munge_socket}
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
    )
    (folder / "slurmdbd.conf").write_text(
        f"""{shared}DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={accounts}
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
"""
    )
    (folder / "slurmdbd.conf").chmod(0o600)
    (folder / "state").mkdir()
    (folder / "spool").mkdir()


def _start_mariadb(stack: contextlib.ExitStack, folder: Path, data: Path, port: int) -> None:
    """MariaDB for Slurm's accounts, with a user and a database for it."""
    owner = pwd.getpwnam("mysql").pw_name
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}/data", f"--user={owner}"]
    subprocess.run([*install, "--auth-root-authentication-method=normal"], check=True, capture_output=True)
    command = ["mariadbd", "--no-defaults", f"--datadir={data}/data", f"--socket={data}/socket", f"--port={port}"]
    options = ["--bind-address=127.0.0.1", f"--user={owner}", f"--pid-file={data}/pid"]
    process = stack.enter_context(running([*command, *options], folder / "mariadb.log"))
    wait_for("MariaDB", lambda: listens(port, process))
    sql = "CREATE DATABASE slurm; CREATE USER slurm@localhost IDENTIFIED BY 'slurm'; "
    sql += "CREATE USER slurm@'127.0.0.1' IDENTIFIED BY 'slurm'; "
    sql += "GRANT ALL ON slurm.* TO slurm@localhost; GRANT ALL ON slurm.* TO slurm@'127.0.0.1';"
    subprocess.run(["mariadb", "--no-defaults", f"--socket={data}/socket", "-uroot", "-e", sql], check=True)
