"""Being one rank of a run: the world that this process finds itself in, the others met and left, what is told of an error."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from traceback import format_exception, format_exception_only
from typing import TYPE_CHECKING, TypeVar

from runner.base.errors import RinggraphError
from runner.ranks.reports import (
    FOLDER,
    Report,
    end_at_once,
    expect_waiting_threads,
    own_folder,
    own_rank,
    read_place,
    write_report,
)

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

    from runner.ranks.comm_torch import TorchComm
    from runner.ranks.notes import Notes, PeerError

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
    world: World, *, device: str = "cpu", timeout_s: float = DEFAULT_TIMEOUT_S, start_s: float | None = None
) -> Iterator[TorchComm]:
    """This process as one rank of a world: joins on entry, tells the others if it fails, leaves on exit.

    Ranks have `timeout_s` to come together, or `start_s` if that is longer, which without is START_S for ranks that `launch`
    started. Where a launcher of ours takes the report of an error, the process ends here, at once. Raises RinggraphError.
    """
    import torch.distributed as dist

    with suppress(ValueError):  # only the main thread may
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the launcher speaks for all ranks; a rank just ends
    _end_with_launcher()
    expect_waiting_threads()
    if start_s is None:
        start_s = START_S if os.environ.get(LAUNCHER) else 0.0
    notes: Notes | None = None
    try:
        store, notes = _meet(world, max(start_s, timeout_s))
        _expect_all(notes, max(start_s, timeout_s))
        comm = _connected(world, device, timeout_s, store, notes)
        yield comm
        comm.barrier()  # nobody hangs up while another still receives
    except BaseException as error:
        _leave(error, notes)  # the connections stay open until the process ends, so that others find the note first
        raise
    notes.close()
    dist.destroy_process_group()


def _leave(error: BaseException, notes: Notes | None) -> None:
    """Tells the others and the launcher of an error; does not return if a launcher of ours has its report."""
    peer = peer_error(error)
    if notes is not None and peer is None:
        notes.leave((str(error).strip() or type(error).__name__).splitlines()[0])
    told = write_report(report_of(error))
    if notes is not None:
        notes.linger(() if peer is None else peer.blamed, is_victim=peer is not None)
    if told:
        end_at_once(1)


def _connected(world: World, device: str, timeout_s: float, store: Store, notes: Notes) -> TorchComm:
    """The group of all ranks, which have come to the store."""
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    from runner.ranks.comm_torch import TorchComm

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
        reason = str(error).splitlines()[0]
        raise notes.blame(f"rank {world.rank} cannot connect to the other ranks: {reason}", None) from error
    return TorchComm(notes, timeout_s, staged)


def _meet(world: World, start_s: float) -> tuple[Store, Notes]:
    """The store that all ranks share, and the notes in it; raises RinggraphError where it is not to be had."""
    from runner.ranks.notes import Notes, PeerError, within

    where, deadline = _where(), time.monotonic() + start_s
    while world.rank > 0 and not _somebody_listens():  # torch would tell of every try, before the cause
        if time.monotonic() > deadline:
            raise PeerError(f"rank 0 did not come to {where} within {start_s:g} s", [0], [0])
        time.sleep(0.1)
    try:
        store, holder = within(start_s + 1, lambda: _shared_store(world, start_s))
    except (RuntimeError, ValueError, OSError) as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            raise RinggraphError(f"port {where} is in use", hint="choose another MASTER_PORT") from error
        raise RinggraphError(f"rank {world.rank} cannot reach rank 0 at {where} within {start_s:g} s") from error
    return store, Notes(store, world.rank, world.size, holder)


def _shared_store(world: World, start_s: float) -> tuple[Store, int | None]:
    """The store that torchrun and our launcher hold for the ranks, or that rank 0 holds; and the rank that does."""
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
    from torch.distributed.rendezvous import rendezvous

    limit = timedelta(seconds=start_s)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return next(iter(rendezvous("env://", world.rank, world.size, timeout=limit)))[0], None
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, world.size, world.rank == 0, limit, wait_for_workers=False), 0


def _somebody_listens() -> bool:
    """Whether there is anything at the place where rank 0 should be."""
    try:
        socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), 1).close()
    except OSError:
        return False
    return True


def _where() -> str:
    return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"


def _expect_all(notes: Notes, start_s: float) -> None:
    """Returns when all ranks have come; raises PeerError that names those that have not."""
    from runner.ranks.notes import ranks_text

    deadline = time.monotonic() + start_s
    notes.come()
    while missing := notes.missing():
        if (known := notes.known()) is not None:
            raise known
        if time.monotonic() > deadline:
            raise notes.judge(f"{ranks_text(missing)} did not come to {_where()} within {start_s:g} s", missing, missing)
        time.sleep(0.05)
    notes.listen()


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


def peer_error(error: BaseException | None) -> PeerError | None:
    """The error behind `error` that is another rank's doing, if any."""
    from runner.ranks.notes import PeerError

    seen = 0
    while error is not None and not isinstance(error, PeerError) and seen < 100:
        error, seen = error.__cause__ or error.__context__, seen + 1
    return error if isinstance(error, PeerError) else None


def report_of(error: BaseException) -> Report:
    """What this rank tells the launcher of an error."""
    peer = peer_error(error)
    if peer is not None:
        return Report(str(error), True, peer.silent)
    if isinstance(error, RinggraphError):
        return Report(error.shown)
    if isinstance(error, OSError):
        return Report(str(error))
    folder, rank = own_folder(), own_rank()
    place = read_place(folder, rank) if folder is not None and rank is not None else None
    where = f" in {place}" if place else ""
    if isinstance(error, SystemExit):
        return Report(f"ended with exit code {error.code}{where}")
    what = format_exception_only(error)[-1].splitlines()[0]
    return Report(f"failed{where}: {what}", traceback="".join(format_exception(error)))


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
