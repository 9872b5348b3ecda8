"""Ranks of one expert-parallel run: started on this machine, or joined where torchrun started them; when one ends, all end.

One command serves both: `launch` runs the command that the user gave once a rank, through torch's elastic launcher, and a process
that finds itself in a world of ranks (`given_world`) joins it (`joined`).
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from traceback import format_exception, format_exception_only
from typing import TYPE_CHECKING, TypeVar

from runner.base.errors import RinggraphError
from runner.ranks.reports import FOLDER, Report, own_folder, own_rank, read_place, read_reports, write_report

if TYPE_CHECKING:
    from runner.ranks.comm_torch import TorchComm

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 120.0
"""How long a rank waits for another before it gives up."""

START_S = 60.0
"""How long ranks have to come together, where the timeout is not longer: starting takes its time on a busy machine."""

SHUTDOWN_S = 2
"""Between asking a rank to end and killing it."""

_LAUNCHER = "RINGGRAPH_LAUNCHER"
"""Environment variable with the process id of the launcher, without which a rank has no reason to go on."""

_WORLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class RankError(RinggraphError):
    """Ranks have failed; the message names them, with the node and the cause."""


@dataclass(frozen=True, slots=True)
class World:
    """The ranks of a run, and which of them this process is; `local_*` count those on this machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def given_world(env: Mapping[str, str] = os.environ) -> World | None:
    """The world that this process was started in, by torchrun's environment variables; None without. Raises RinggraphError."""
    if not env.get("RANK") and not env.get("WORLD_SIZE"):
        return None
    missing = [name for name in _WORLD if not env.get(name)]
    if missing:
        raise RinggraphError(
            f"this process is told to join a world of ranks, but the environment lacks {', '.join(missing)}",
            hint="start it with torchrun, or unset RANK and WORLD_SIZE",
        )
    rank, size, _ = (_number(env, name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if rank >= size:
        raise RinggraphError(f"RANK is {rank}, expected less than WORLD_SIZE, which is {size}")
    local_rank = _number(env, "LOCAL_RANK") if env.get("LOCAL_RANK") else rank
    local_size = _number(env, "LOCAL_WORLD_SIZE") if env.get("LOCAL_WORLD_SIZE") else size
    return World(rank, size, local_rank, local_size)


def _number(env: Mapping[str, str], name: str) -> int:
    if not (env[name].isascii() and env[name].isdigit()):
        raise RinggraphError(f"environment variable {name} is '{env[name]}', expected a number")
    return int(env[name])


def check_size(world: World, ep: int | None) -> None:
    """Raises RinggraphError unless `--ep` and the world that was given agree."""
    if ep is not None and ep != world.size:
        raise RinggraphError(
            f"the world has {world.size} rank{'s' * (world.size > 1)} (WORLD_SIZE), but --ep is {ep}",
            hint=f"start {ep} ranks, or give --ep {world.size}",
        )


# --- starting ranks -------------------------------------------------------------------------------------------------


def launch(command: Sequence[str], num_ranks: int, *, timeout_s: float = DEFAULT_TIMEOUT_S, port: int = 0) -> None:
    """Runs `command` once a rank on this machine, and returns when all have ended well.

    Standard streams are shared. `port` is where the ranks meet (0: a free one). When one rank ends badly, the others are ended
    within SHUTDOWN_S and none stays. Raises RankError.
    """
    check_port(port)
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with (
        _quiet(),
        tempfile.TemporaryDirectory(prefix="ringgraph-ranks-") as folder,
        _environment(folder, num_ranks),
        _soon_killed(),
        _signals_given_back(),
    ):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_ranks,
            rdzv_backend="c10d",
            rdzv_endpoint=f"127.0.0.1:{port}",
            rdzv_configs={"timeout": round(max(timeout_s, START_S))},
            run_id=Path(folder).name,
            role="rank",
            max_restarts=0,
            monitor_interval=0.1,
            local_addr="127.0.0.1",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            shutdown_timeout=SHUTDOWN_S,
        )
        try:
            elastic_launch(config, command[0])(*command[1:])
        except ChildFailedError as error:
            exit_codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            hint = _kept_tracebacks(read_reports(Path(folder)))
            raise RankError(failure_text(Path(folder), num_ranks, exit_codes), hint=hint) from None
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            sys.exit(128 + error.sigval)
        except RendezvousError as error:
            raise RankError(f"cannot start the ranks: {error}") from error


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
    threads = max(1, (os.cpu_count() or 1) // num_ranks)
    wanted = {FOLDER: folder, _LAUNCHER: str(os.getpid())}
    defaults = {"OMP_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if loopback is not None:
        defaults["GLOO_SOCKET_IFNAME"] = loopback  # all ranks are here, whatever this machine's name resolves to
    before = dict(os.environ)
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
def _soon_killed() -> Iterator[None]:
    """Ranks that do not end when they are asked to are killed after SHUTDOWN_S; the launcher's own way is to wait for half a
    minute, and its setting for that does not reach the case that one rank has failed."""
    from torch.distributed.elastic.multiprocessing import PContext

    close = PContext.close

    def close_soon(self: PContext, death_sig: signal.Signals | None = None, timeout: int = SHUTDOWN_S) -> None:
        close(self, death_sig, min(timeout, SHUTDOWN_S))

    PContext.close = close_soon
    try:
        yield
    finally:
        PContext.close = close


def failure_text(folder: Path, num_ranks: int, exit_codes: Mapping[int, int]) -> str:
    """Which ranks have failed, where and why: own failures if any rank has one, else what ranks say of others."""
    from runner.ranks.comm_torch import ranks_text

    reports = read_reports(folder)
    causes = {rank: report.message for rank, report in reports.items() if not report.secondary}
    silent = {rank for report in reports.values() for rank in report.silent}
    for rank, code in exit_codes.items():
        if rank not in reports and rank not in silent and code != -signal.SIGTERM:  # those were ended by the launcher
            causes[rank] = _ending(code, read_place(folder, rank))
    if not causes:
        causes = {rank: report.message + _last_seen(folder, report) for rank, report in reports.items()}
    alike: dict[str, list[int]] = {}
    for rank, message in sorted(causes.items()):
        alike.setdefault(message, []).append(rank)
    lines = [f"[{ranks_text(ranks)}]{_after(message)}" for message, ranks in alike.items()]
    ended = [rank for rank in range(num_ranks) if rank not in causes and rank not in silent]
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


# --- being a rank ---------------------------------------------------------------------------------------------------


@contextmanager
def joined(
    world: World, *, device: str = "cpu", timeout_s: float = DEFAULT_TIMEOUT_S, start_s: float = START_S
) -> Iterator[TorchComm]:
    """This process as one rank of a world: joins on entry, tells the others if it fails, leaves on exit.

    Raises RinggraphError where the ranks do not come together within `start_s`, or `timeout_s` if that is longer.
    """
    from datetime import timedelta

    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    from runner.ranks.comm_torch import PeerError, TorchComm

    with suppress(ValueError):  # only the main thread may
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the launcher speaks for all ranks; a rank just ends
    _end_with_launcher()
    store = _meet(world, max(start_s, timeout_s))
    backend, staged = _backend(device, world)
    try:
        dist.init_process_group(
            backend,
            store=PrefixStore("group", store),
            rank=world.rank,
            world_size=world.size,
            timeout=timedelta(seconds=timeout_s),
        )
    except RuntimeError as error:
        raise RinggraphError(f"rank {world.rank} cannot connect to the other ranks: {str(error).splitlines()[0]}") from error
    comm = TorchComm(store, timeout_s, staged)
    try:
        yield comm
        comm.barrier()  # nobody hangs up while another still receives
    except BaseException as error:
        if not isinstance(peer_error(error), PeerError):
            comm.leave_note((str(error).strip() or type(error).__name__).splitlines()[0])
        if isinstance(error, Exception):
            write_report(report_of(error))
        raise  # the connections stay open until the process ends, so that others find the note first
    dist.destroy_process_group()


def _meet(world: World, start_s: float):
    """The store that all ranks share, when all have come to it."""
    from datetime import timedelta

    from torch.distributed.rendezvous import rendezvous

    from runner.ranks.comm_torch import PeerError, ranks_text

    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    limit = timedelta(seconds=start_s)
    unreachable = f"rank {world.rank} cannot reach rank 0 at {where} within {start_s:g} s"
    try:
        found = _within(start_s + 1, lambda: next(iter(rendezvous("env://", world.rank, world.size, timeout=limit))))
    except (RuntimeError, ValueError, OSError) as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            raise RinggraphError(f"port {where} is in use", hint="choose another MASTER_PORT") from error
        raise RinggraphError(unreachable) from error
    store = found[0]
    names = [f"come/{rank}" for rank in range(world.size)]
    try:
        store.set(names[world.rank], "")
        store.wait(names, limit)
    except RuntimeError as error:
        missing = _absent(store, names)
        who = ranks_text(missing) if missing else "a rank"
        raise PeerError(f"{who} did not come to {where} within {start_s:g} s", missing) from error
    return store


def _within(limit_s: float, action: Callable[[], T]) -> T:
    """What `action` returns or raises; TimeoutError where it takes longer. A stranger's port that accepts and never answers would
    hold torch's rendezvous for ever, whatever timeout it is given."""
    done: list[T | Exception] = []

    def act() -> None:
        try:
            done.append(action())
        except Exception as error:
            done.append(error)

    thread = threading.Thread(target=act, name="ringgraph-rendezvous", daemon=True)
    thread.start()
    thread.join(limit_s)
    if not done:
        raise TimeoutError
    if isinstance(done[0], Exception):
        raise done[0]
    return done[0]


def _absent(store, names: Sequence[str]) -> list[int]:
    try:
        return [rank for rank, name in enumerate(names) if not store.check([name])]
    except RuntimeError:
        return []


def _backend(device: str, world: World) -> tuple[str, bool]:
    """The process group's backends, and whether the device's tensors go through host memory."""
    import torch
    import torch.distributed as dist

    kind = torch.device(device).type
    name = {"cuda": "nccl", "npu": "hccl"}.get(kind)
    if name is None or not dist.is_backend_available(name):
        return "gloo", kind != "cpu"
    if torch.get_device_module(kind).device_count() < world.local_size:
        return "gloo", True  # these backends refuse two ranks on one device
    return f"cpu:gloo,{kind}:{name}", False


def rank_device(device: str, world: World) -> str:
    """The device of this rank: ranks take the machine's accelerators in turn, unless one is named (`cuda:1`)."""
    import torch

    chosen = torch.device(device)
    if chosen.type == "cpu" or chosen.index is not None:
        return device
    return f"{device}:{world.local_rank % max(1, torch.get_device_module(chosen.type).device_count())}"


def peer_error(error: BaseException | None) -> BaseException | None:
    """The error behind `error` that is another rank's doing, if any."""
    from runner.ranks.comm_torch import PeerError

    seen = 0
    while error is not None and not isinstance(error, PeerError) and seen < 100:
        error, seen = error.__cause__ or error.__context__, seen + 1
    return error


def report_of(error: BaseException) -> Report:
    """What this rank tells the launcher of an error."""
    from runner.ranks.comm_torch import PeerError

    peer = peer_error(error)
    if isinstance(peer, PeerError):
        return Report(str(error), True, peer.silent)
    if isinstance(error, RinggraphError):
        return Report(error.shown)
    if isinstance(error, OSError):
        return Report(str(error))
    folder, rank = own_folder(), own_rank()
    place = read_place(folder, rank) if folder is not None and rank is not None else None
    what = format_exception_only(error)[-1].splitlines()[0]
    return Report(f"failed{f' in {place}' if place else ''}: {what}", traceback="".join(format_exception(error)))


def _end_with_launcher() -> None:
    """Ends this process when the launcher is gone: a launcher that was killed cannot end its ranks."""
    launcher = os.environ.get(_LAUNCHER)
    if not launcher:
        return

    def watch() -> None:
        while os.getppid() == int(launcher):
            time.sleep(0.25)
        shutil.rmtree(os.environ.get(FOLDER, ""), ignore_errors=True)  # which the launcher would have removed
        os._exit(1)

    threading.Thread(target=watch, name="ringgraph-launcher-watch", daemon=True).start()
