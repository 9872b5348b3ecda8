"""Being one rank of a run: the world that this process finds itself in, the others met and left, what is told of an error."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from traceback import format_exception, format_exception_only
from typing import TYPE_CHECKING, TypeVar

from runner.base.errors import RinggraphError
from runner.ranks.reports import FOLDER, Report, own_folder, own_rank, read_place, write_report

if TYPE_CHECKING:
    from runner.ranks.comm_torch import TorchComm

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 120.0
"""How long a rank waits for another before it gives up."""

START_S = 60.0
"""How long ranks have to come together, where the timeout is not longer: starting takes its time on a busy machine."""

LAUNCHER = "RINGGRAPH_LAUNCHER"
"""Environment variable with the process id of the launcher, without which a rank has no reason to go on."""

_WORLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


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


@contextmanager
def joined(
    world: World, *, device: str = "cpu", timeout_s: float = DEFAULT_TIMEOUT_S, start_s: float = START_S
) -> Iterator[TorchComm]:
    """This process as one rank of a world: joins on entry, tells the others if it fails, leaves on exit.

    Raises RinggraphError where the ranks do not come together within `start_s`, or `timeout_s` if that is longer.
    """
    import torch.distributed as dist

    from runner.ranks.comm_torch import PeerError

    with suppress(ValueError):  # only the main thread may
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the launcher speaks for all ranks; a rank just ends
    _end_with_launcher()
    comm = _connected(world, device, timeout_s, max(start_s, timeout_s))
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


def _connected(world: World, device: str, timeout_s: float, start_s: float) -> TorchComm:
    """The group of all ranks, when all have come."""
    from datetime import timedelta

    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    from runner.ranks.comm_torch import TorchComm

    store = _meet(world, start_s)
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
    return TorchComm(store, timeout_s, staged)


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
    launcher = os.environ.get(LAUNCHER)
    if not launcher:
        return

    def watch() -> None:
        while os.getppid() == int(launcher):
            time.sleep(0.25)
        shutil.rmtree(os.environ.get(FOLDER, ""), ignore_errors=True)  # which the launcher would have removed
        os._exit(1)

    threading.Thread(target=watch, name="ringgraph-launcher-watch", daemon=True).start()
