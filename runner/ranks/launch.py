"""The ranks of one run: started on this machine, or joined where torchrun started them; when one ends, all end.

One command serves both: `launch` runs the command that the user gave once a rank, through torch's elastic launcher, and a process
that finds itself in a world of ranks joins it (`runner.ranks.join`).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from runner.base.errors import RinggraphError
from runner.base.threads import free_processors, is_given
from runner.ranks.join import DEFAULT_TIMEOUT_S, LAUNCHER, START_S
from runner.ranks.reports import FOLDER, Report, expect_waiting_threads, read_place, read_reports

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

SHUTDOWN_S = 2
"""Between asking a rank to end and killing it."""


class RankError(RinggraphError):
    """Ranks have failed; the message names them, with the node and the cause."""


def launch(command: Sequence[str], num_ranks: int, *, timeout_s: float = DEFAULT_TIMEOUT_S, port: int = 0) -> None:
    """Runs `command` once a rank on this machine, and returns when all have ended well.

    Standard streams are shared. `port` is where the ranks meet (0: a free one). When one rank ends badly, the others are ended
    within SHUTDOWN_S and none stays. Raises RankError.
    """
    check_port(port)
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    with (
        _quiet(),
        tempfile.TemporaryDirectory(prefix="ringgraph-ranks-") as folder,
        _environment(folder, num_ranks),
        _soon_killed() as first_failures,
        _signals_given_back(),
    ):
        try:
            elastic_launch(_launch_config(Path(folder), num_ranks, timeout_s, port), command[0])(*command[1:])
        except ChildFailedError as error:
            exit_codes = first_failures or {rank: failure.exitcode for rank, failure in error.failures.items()}
            hint = _kept_tracebacks(read_reports(Path(folder)))
            raise RankError(failure_text(Path(folder), [*error.failures], exit_codes), hint=hint) from None
        except SignalException as error:
            expect_waiting_threads()  # the launcher leaves its timer running, which would wait for a lock of a Python that ends
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            sys.exit(128 + error.sigval)
        except RendezvousError as error:
            raise RankError(f"cannot start the ranks: {error}") from error


def _launch_config(folder: Path, num_ranks: int, timeout_s: float, port: int) -> LaunchConfig:
    """All ranks on this machine, which meet at `port`; torch's launcher keeps its own files in `folder`."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        rdzv_backend="c10d",
        rdzv_endpoint=f"127.0.0.1:{port}",
        rdzv_configs={"timeout": round(max(timeout_s, START_S))},
        run_id=folder.name,
        role="rank",
        max_restarts=0,
        monitor_interval=0.1,
        local_addr="127.0.0.1",
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
        shutdown_timeout=SHUTDOWN_S,
    )


def own_command(arguments: Sequence[str]) -> list[str]:
    """The command line of this package with `arguments`, as a process of its own, from whatever folder."""
    root = str(Path(__file__).parents[2])
    return [
        sys.executable,
        "-P",
        "-c",
        f"import sys; sys.path.insert(0, {root!r}); from runner.cli.main import main; main()",
        *arguments,
    ]


def check_port(port: int) -> None:
    """Raises RinggraphError if a port of this machine is in use (0 never is)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise RinggraphError(
                f"port {port} cannot be used for the ranks to meet: {(error.strerror or str(error)).lower()}",
                hint="choose another with --port, or leave it out for a free one",
            ) from None


@contextmanager
def _environment(folder: str, num_ranks: int) -> Iterator[None]:
    """The environment that ranks inherit."""
    threads = max(1, free_processors() // num_ranks)
    wanted = {FOLDER: folder, LAUNCHER: str(os.getpid())}
    defaults = {"OMP_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": "FATAL"}
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if loopback is not None:
        defaults["GLOO_SOCKET_IFNAME"] = loopback  # all ranks are here, whatever this machine's name resolves to
    before = dict(os.environ)
    if not is_given(before):
        wanted["OMP_NUM_THREADS"] = defaults["OMP_NUM_THREADS"]
    os.environ.update({**{name: value for name, value in defaults.items() if name not in before}, **wanted})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _signals_given_back() -> Iterator[None]:
    """The launcher takes signals for itself and keeps them; afterwards Ctrl-C means what it meant before."""
    before = {sig: signal.getsignal(sig) for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)}
    try:
        yield
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """No logging: the launcher logs tracebacks and signals, of which we report what users need."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _soon_killed() -> Iterator[dict[int, int]]:
    """Ranks are asked to end in a way that Python does not take for Ctrl-C, and killed after SHUTDOWN_S if they do not.

    The launcher's own way is to wait for half a minute, and its setting for that does not reach the case that one rank has
    failed. Gives the exit codes of the ranks that had failed before any other was ended: later ones are of the launcher's doing.
    """
    from torch.distributed.elastic.multiprocessing import PContext

    close, first = PContext.close, {}

    def close_soon(self: PContext, death_sig: signal.Signals | None = None, timeout: int = SHUTDOWN_S) -> None:
        first.update({rank: failure.exitcode for rank, failure in getattr(self, "_failures", {}).items() if not first})
        close(self, signal.SIGTERM if death_sig == signal.SIGINT else death_sig, min(timeout, SHUTDOWN_S))

    PContext.close = close_soon
    try:
        yield first
    finally:
        PContext.close = close


def failure_text(folder: Path, failed: Sequence[int], exit_codes: Mapping[int, int]) -> str:
    """Which ranks have failed, where and why: own failures if any rank has one, else what ranks say of others.

    `failed` are all that did not end well, `exit_codes` those of the ranks that nobody ended.
    """
    from runner.ranks.notes import ranks_text

    reports = read_reports(folder)
    causes = {rank: report.message for rank, report in reports.items() if not report.secondary}
    silent = {rank for report in reports.values() for rank in report.silent}
    for rank, code in exit_codes.items():
        if rank not in reports and rank not in silent:
            causes[rank] = _ending(code, read_place(folder, rank))
    if not causes:
        causes = {rank: report.message + _last_seen(folder, report) for rank, report in reports.items()}
    alike: dict[str, list[int]] = {}
    for rank, message in sorted(causes.items()):
        alike.setdefault(message, []).append(rank)
    lines = [f"[{ranks_text(ranks)}]{_after(message)}" for message, ranks in alike.items()]
    ended = [rank for rank in sorted(failed) if rank not in causes and rank not in silent]
    if ended:
        lines.append(f"{ranks_text(ended)} {'was' if len(ended) == 1 else 'were'} ended with it")
    return "\n".join(lines)


def _kept_tracebacks(reports: Mapping[int, Report]) -> str | None:
    """A hint to report what nobody foresaw, with the file that the ranks' tracebacks are kept in; None without any."""
    found = [f"[rank {rank}] {report.message}\n{report.traceback}" for rank, report in reports.items() if report.traceback]
    if not found:
        return None
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="ringgraph-", suffix=".txt", delete=False) as file:
        file.write("\n".join(found))
    return f"this is a mistake in ringgraph: please report it, with {file.name}"


def _after(message: str) -> str:
    """A message behind the ranks that it is from; a list of diagnostics begins on a line of its own."""
    return f"\n{message}" if message.startswith("error ") else f" {message}"


def _ending(exit_code: int, place: str | None) -> str:
    where = f" in {place}" if place else " before it could join"
    if exit_code >= 0:
        return f"ended with exit code {exit_code}{where}, without a report"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"was killed ({name}){where}"


def _last_seen(folder: Path, report: Report) -> str:
    seen = [(rank, read_place(folder, rank)) for rank in report.silent]
    return "".join(f"\nrank {rank} was last in {place}" for rank, place in seen if place)
