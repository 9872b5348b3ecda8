"""Processes of Python that begin with torch loaded: a server forks them, where each would take seconds to load it.

`Warm(["steps.py", "8"], env)` is as `subprocess.Popen([sys.executable, "steps.py", "8"], env=env)` that keeps the streams, and
takes `-c`, `-m` and `-P` too. `num_ranks` says how many processes torch's launcher starts in it; these are forked from it before.

    test -- socket --> server (torch loaded) --fork--> Warm (the command) --fork--> its ranks, asleep until they are launched

What differs from a process that is started: what libraries read from the environment when they are loaded is the server's, in
which torch's own log is off and products are reproducible, as the command line has it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

STARTER = "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler"
"""The module in which torch's launcher starts a process for each rank."""

LOADED = (
    *("torch.distributed.launcher.api", STARTER, "runner.ranks.comm_torch", "runner.ranks.launch", "runner.ranks.notes"),
    *("runner.cli.main", "runner.driver.driver", "runner.driver.serve", "runner.serving.generate", "runner.serving.session"),
)
SERVER_ENV = {"MKL_CBWR": "AUTO,STRICT", "TORCH_CPP_LOG_LEVEL": "FATAL"}
MOST_BYTES = 1 << 20


class Warm:
    """A process of Python that begins with torch loaded; what it has in common with `subprocess.Popen` is named alike."""

    def __init__(
        self,
        arguments: Sequence[object],
        env: Mapping[str, str] = os.environ,
        *,
        num_ranks: int = 0,
        start_new_session: bool = False,
    ):
        self.returncode: int | None = None
        self._streams = [tempfile.TemporaryFile("w+", encoding="utf-8") for _ in range(2)]  # noqa: SIM115 - kept until it ends
        request = {"arguments": [*map(str, arguments)], "env": dict(env), "cwd": os.getcwd()}
        request |= {"ranks": num_ranks, "session": start_new_session}
        self.pid: int = _asked(request, [stream.fileno() for stream in self._streams])

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _asked({"ended": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            time.sleep(0.02)
        return self.returncode or 0

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed on standard output and error until it ended."""
        self.wait(timeout)
        out, err = (_text(stream) for stream in self._streams)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def launched(program: Path, *arguments: object, num_ranks: int, timeout_s: float) -> str:
    """What a program of Python prints, which our launcher runs once a rank; raises AssertionError unless all end well."""
    command = f"[sys.executable, {', '.join(repr(str(each)) for each in (program, *arguments))}]"
    code = f"import sys; from runner.ranks.launch import launch; launch({command}, {num_ranks}, timeout_s={timeout_s})"
    process = Warm(["-c", code], num_ranks=num_ranks)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def _text(stream: Any) -> str:
    stream.seek(0)
    return stream.read()


@cache
def _server() -> socket.socket:
    """Where the server of this process listens, which ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command, env, end = [sys.executable, __file__, str(theirs.fileno())], {**os.environ, **SERVER_ENV}, theirs.fileno()
        quiet = subprocess.DEVNULL
        server = subprocess.Popen(command, env=env, stdin=quiet, stdout=quiet, pass_fds=[end], start_new_session=True)
    atexit.register(lambda: (ours.close(), server.wait()))
    return ours


def _asked(request: dict[str, Any], files: Sequence[int] = ()) -> Any:
    socket.send_fds(_server(), [json.dumps(request).encode()], files)
    answer = _server().recv(MOST_BYTES)
    assert answer, "the server of warm processes has ended"
    return json.loads(answer)


# --- in the server, and in what it forks ------------------------------------------------------------------------------


def serve(asked: socket.socket) -> dict[str, Any] | None:
    """Answers until nobody can ask; in a process that it forked, gives what this is to run."""
    for name in LOADED:
        importlib.import_module(name)
    gc.freeze()
    while True:
        text, files, _, _ = socket.recv_fds(asked, MOST_BYTES, 2)
        if not text:
            return None
        request = json.loads(text)
        if "ended" in request:
            pid, status = os.waitpid(request["ended"], os.WNOHANG)
            asked.send(json.dumps(os.waitstatus_to_exitcode(status) if pid else None).encode())
        elif pid := os.fork():
            asked.send(json.dumps(pid).encode())
            for file in files:
                os.close(file)
        else:
            asked.close()
            for number, file in enumerate(files, 1):
                os.dup2(file, number)
                os.close(file)
            return _with_ranks(request)


class _Asleep:
    """A process forked from this one that waits for what it is to run."""

    def __init__(self, before: Sequence[_Asleep]):
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid:
            theirs.close()
            return
        for other in (*before, self):
            other.ours.close()
        text = theirs.recv(MOST_BYTES)
        if not text:
            os._exit(0)  # it was not wanted
        os.setsid()  # as torch's launcher starts it
        self.request = json.loads(text)
        theirs.send(b"awake")
        theirs.close()

    def woken(self, arguments: Sequence[str], env: Mapping[str, str]) -> int:
        self.ours.send(json.dumps({"arguments": arguments, "env": dict(env), "cwd": os.getcwd()}).encode())
        assert self.ours.recv(16) == b"awake"
        self.ours.close()
        return self.pid


def _with_ranks(request: dict[str, Any]) -> dict[str, Any]:
    """Forks the ranks of a command, which torch's launcher then wakes instead of starting them; gives what this is to run."""
    if request["session"]:
        os.setsid()
    asleep: list[_Asleep] = []
    for _ in range(request["ranks"]):
        asleep.append(_Asleep(asleep))
        if not asleep[-1].pid:
            return asleep[-1].request

    class Rank(subprocess.Popen):
        def __init__(self, args: Sequence[str], env: Mapping[str, str], **_: Any):
            self._woken_with = args[1:], env
            super().__init__(args)

        def _execute_child(self, *_: Any) -> None:
            self.pid, self._child_created = asleep.pop(0).woken(*self._woken_with), True

    if request["ranks"]:
        sys.modules[STARTER].Popen = Rank
    return request


def run(request: dict[str, Any]) -> None:
    """Runs what Python would with these arguments, in this environment and folder."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    first, *rest = (argument for argument in request["arguments"] if argument != "-P")
    folders = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:1] = [{"-c": "", "-m": os.getcwd()}.get(first, os.path.dirname(first)), *folders]
    if PathFinder.find_spec("sitecustomize", folders) is not None:
        sys.modules.pop("sitecustomize", None)
        importlib.import_module("sitecustomize")
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as own_end:
        wanted = serve(own_end)
    if wanted is not None:
        run(wanted)
