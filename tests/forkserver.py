"""Start Python programs as forks of one process that has imported torch and MLflow: 0.3 s in place of 4 s.

A fork is a process like any other: it has its own folder, environment, arguments, streams and exit code, it can be
killed alone, and at its end the interpreter runs what the program registered for it. It differs from a fresh
interpreter in what is imported already. Tests of start-up, of imports, and of variables that libraries read while they
are imported need a fresh one.

`ForkServer` starts the server, `python -m tests.forkserver SOCKET DATABASE`, and asks it for processes.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NoReturn

from hydra.core.plugins import Plugins

# What the commands import for their work beside this project's own modules.
IMPORTED = (
    "PIL.JpegImagePlugin",
    "PIL.PpmImagePlugin",
    "alembic.command",
    "antlr4.LL1Analyzer",
    "hydra._internal.logging_config",
    "joblib.externals.loky.backend.popen_loky_posix",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "omegaconf._impl",
    "optuna",
    "sklearn.utils",
    "sqlalchemy.dialects.sqlite",
    "torch.utils.serialization",
)
# They are run as `__main__`, so they are not imported.
COMMANDS = {f"pipeline.{name}" for name in ("train", "report", "advise", "reproduce", "sync")}


class ForkedProcess:
    """A fork, with the part of `subprocess.Popen` that tests use; its streams are text, which `check` looks at."""

    def __init__(
        self,
        status: IO[str],
        stdout: IO[str] | None,
        stderr: IO[str] | None,
        check: Callable[..., None] = lambda *texts: None,
    ) -> None:
        self._check = check
        self._status = status
        self.stdout, self.stderr = stdout, stderr
        self.pid = int(status.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(timeout=0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process has ended; returns its exit code, or minus the signal that killed it."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout or 0)
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read both streams to their end and wait; a process that takes longer than `timeout` is killed."""
        streams = [stream for stream in (self.stdout, self.stderr) if stream is not None]
        with ThreadPoolExecutor(2) as pool:
            texts = {stream: pool.submit(stream.read) for stream in streams}
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        for stream in streams:
            stream.close()
        stdout, stderr = (texts[s].result() if s in texts else "" for s in (self.stdout, self.stderr))
        self._check(stdout, stderr)
        return stdout, stderr

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class ForkServer:
    """A server process, which lives until `close`."""

    def __init__(self, database: Path, environment: Mapping[str, str]) -> None:
        """Start it; `database` is an SQLite file with MLflow's empty tables, which it copies for new stores."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forkserver", str(theirs.fileno()), str(database)],
                cwd=Path(__file__).parents[1],
                # pyarrow, which MLflow imports, would start a thread of its memory allocator.
                env={**environment, "JE_ARROW_MALLOC_CONF": "background_thread:false"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def start(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        new_session: bool = False,
        check: Callable[..., None] = lambda *texts: None,
    ) -> ForkedProcess:
        """Run what `python *arguments` runs, in `folder`; arguments start with -m, -c or a program's path."""
        request = {
            "arguments": list(arguments),
            "folder": str(folder),
            "environment": dict(environment),
            "new_session": new_session,
        }
        pipes = [os.pipe() for _ in range(3)]
        socket.send_fds(self._control, [json.dumps(request).encode()], [write for _, write in pipes])
        for _, write in pipes:
            os.close(write)
        return ForkedProcess(*(open(read, encoding="utf-8") for read, _ in pipes), check)

    def close(self) -> None:
        self._control.close()
        self._process.wait(timeout=60)


def get_ready(database: Path) -> dict[str, str]:
    """Import what programs need; returns the environment variables that imports have set.

    No thread may run, for a fork would lose it.
    """
    import lr_study
    import pipeline
    from tests.databases import copy_for_new_stores

    before = set(os.environ)
    own = {m.name for p in (lr_study, pipeline) for m in pkgutil.walk_packages(p.__path__, f"{p.__name__}.")}
    for name in (*IMPORTED, *sorted(own - COMMANDS)):
        with contextlib.suppress(ImportError):  # a program that needs it says so
            importlib.import_module(name)
    assert not COMMANDS & sys.modules.keys()
    Plugins.instance()  # Hydra looks for its plugins
    copy_for_new_stores(database)
    threads = [
        Path(f"/proc/self/task/{task}/comm").read_text(encoding="utf-8") for task in os.listdir("/proc/self/task")
    ]
    assert len(threads) == 1, threads
    sys.path.remove(os.getcwd())  # of `python -m`
    gc.collect()
    gc.freeze()
    return {name: value for name, value in os.environ.items() if name not in before}


def serve(control: socket.socket) -> dict[str, Any]:
    """Fork for each request and report each end; returns the request, in the fork alone."""
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is not control:
                report_end(selector, key)
                continue
            message, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 3)
            if not message:
                os._exit(0)  # its client has closed the connection, or died
            status, *streams = descriptors
            if (pid := os.fork()) == 0:
                for descriptor, stream in enumerate(streams, start=1):
                    os.dup2(stream, descriptor)
                ours = [number for key in selector.get_map().values() for number in (key.fd, key.data) if number]
                selector.close()
                for number in (*ours, *descriptors):
                    os.close(number)
                control.detach()
                request: dict[str, Any] = json.loads(message)
                return request
            os.write(status, f"{pid}\n".encode())
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, data=status)
            for stream in streams:
                os.close(stream)


def report_end(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    """Write the exit code of the process behind a pidfd to its client."""
    selector.unregister(key.fileobj)
    ended = os.waitid(os.P_PIDFD, key.fd, os.WEXITED)
    assert ended is not None
    code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
    os.close(key.fd)
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
        os.write(key.data, f"{code}\n".encode())
    os.close(key.data)


def become(request: Mapping[str, Any], set_by_imports: Mapping[str, str]) -> None:
    """Do what a fresh interpreter does with these arguments."""
    if request["new_session"]:
        os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update({**set_by_imports, **request["environment"]})
    kind, *rest = arguments = request["arguments"]
    sys.orig_argv[:] = [sys.executable, *arguments]
    if kind == "-m":
        sys.argv[:] = rest
        sys.path.insert(0, os.getcwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv[:] = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        main_module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main_module.__dict__)
    else:
        sys.argv[:] = arguments
        sys.path.insert(0, str(Path(kind).absolute().parent))
        runpy.run_path(kind, run_name="__main__")


def run_to_the_end(request: Mapping[str, Any], set_by_imports: Mapping[str, str]) -> NoReturn:
    """Run the program and what it registered for its end; skip the 0.4 s in which Python takes all modules apart."""
    code: Any = 0
    try:
        become(request, set_by_imports)
    except SystemExit as error:
        code = 0 if error.code is None else error.code
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    variables = get_ready(database=Path(sys.argv[2]))
    run_to_the_end(serve(socket.socket(fileno=int(sys.argv[1]))), variables)
