"""Ranks as processes: started, joined, and all ended when one fails, with rank, place and cause."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
from places import TESTS
from rank_helpers import alive, ended, free_port, wait_for_stopped
from warm import Warm

from runner.base.errors import RinggraphError
from runner.ranks.join import World, check_size, given_world
from runner.ranks.launch import _signals_given_back, check_port, failure_text
from runner.ranks.reports import Place, Report, own_rank, read_place, read_reports, write_report

PROGRAMS = TESTS / "rank_programs"
TIMEOUT_S = 8
"""Where a rank is to run out of time."""

AMPLE_S = 120
"""Where none is, however busy the machine."""


def start(num_ranks: int, *, fault: str = "", timeout_s: float = AMPLE_S, start_s: float = AMPLE_S) -> Warm:
    """The program `steps.py` on ranks, started as the command line starts itself."""
    code = (
        "import sys; from runner.ranks.launch import launch; from runner.base.errors import RinggraphError\n"
        f"command = [sys.executable, {str(PROGRAMS / 'steps.py')!r}, '{timeout_s}', '{start_s}']\n"
        f"try: launch(command, {num_ranks}, timeout_s={timeout_s})\n"
        "except RinggraphError as error: sys.exit(f'error: {error}')\n"
    )
    env = {**os.environ, "RINGGRAPH_FAULT": fault, "PYTHONPATH": f"{PROGRAMS / 'faults'}{os.pathsep}{PROGRAMS.parents[1]}"}
    return Warm(["-c", code], env, num_ranks=num_ranks)


@pytest.mark.slow  # test_comm.py runs three to their end
def test_ranks_run_and_end():
    code, out, err = ended(start(2))
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == ["rank 0 done", "rank 1 done"]


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_all():
    code, _, err = ended(start(3, fault="1|step 2, node|kill"))
    assert code == 1
    assert err == ("error: [rank 1] was killed (SIGKILL) in step 2, node 'layer_2.dispatch'\nranks 0, 2 were ended with it\n")


@pytest.mark.slow
def test_a_rank_that_never_answers_ends_all():
    code, _, err = ended(start(3, fault="2|step 1, node|stop", timeout_s=TIMEOUT_S))
    assert code == 1
    assert "rank 2 did not answer within 8 s" in err and "rank 2 was last in step 1, node 'layer_1.dispatch'" in err
    assert err.count("did not answer") == 1 and "ended with it" not in err


@pytest.mark.slow  # as `generate` over ranks does in test_rank_faults.py
def test_a_rank_that_raises_names_its_cause_and_ends_all():
    code, _, err = ended(start(3, fault="0|step 3, node|raise"))
    assert code == 1
    shown, _, kept = err.partition(", with ")
    assert shown == (
        "error: [rank 0] failed in step 3, node 'layer_3.dispatch': RuntimeError: the test made this up\n"
        "ranks 1, 2 were ended with it\n"
        "hint: this is a mistake in ringgraph: please report it"
    )
    file = Path(kept.rstrip("\n"))
    text = file.read_text()
    file.unlink()
    assert text.startswith("[rank 0] failed in step 3") and "Traceback (most recent call last)" in text
    assert "[rank 1]" not in text and text.endswith("RuntimeError: the test made this up\n")


@pytest.mark.slow
def test_a_rank_that_never_comes_ends_all():
    code, _, err = ended(start(3, fault="1|^start$|stop", timeout_s=TIMEOUT_S, start_s=20))
    assert code == 1
    assert re.search(r"error: \[ranks 0, 2\] rank 1 did not come to \S+:\d+ within 20 s\nrank 1 was last in start", err)


def test_ranks_end_when_their_launcher_is_killed():
    process = start(2, fault="1|step 1, node|stop")
    waiting, stopped = wait_for_stopped(process.pid)
    try:
        process.kill()
        process.wait()
        deadline = time.monotonic() + 240
        while alive(waiting) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(waiting)
    finally:
        os.kill(stopped, signal.SIGKILL)


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RinggraphError, match=rf"^port {port} cannot be used for the ranks to meet: address already in use\n"):
            check_port(port)


def by_hand(rank: int, size: int, port: int, timeout_s: float = AMPLE_S) -> Warm:
    env = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return Warm([PROGRAMS / "steps.py", timeout_s, 0], env)


def test_ranks_started_by_somebody_else_join():
    """As under torchrun: nothing but the environment says who they are."""
    port = free_port()
    ranks = [by_hand(rank, 2, port) for rank in range(2)]
    assert [rank.communicate(timeout=300) for rank in ranks] == [("rank 0 done\n", ""), ("rank 1 done\n", "")]


@pytest.mark.parametrize("absent", [0, 1])
def test_a_rank_that_is_started_by_hand_and_waits_in_vain_names_the_one_that_does_not_come(absent):
    """Within its own timeout, not in that of ranks that a launcher starts."""
    start = time.monotonic()
    waiting = by_hand(1 - absent, 2, free_port(), 3)
    out, err = waiting.communicate(timeout=300)
    assert (waiting.returncode, out) == (1, "") and time.monotonic() - start < 50
    assert re.fullmatch(rf"rank {absent} did not come to 127.0.0.1:\d+ within 3 s\n", err), err


def test_a_port_that_somebody_else_has_ends_ranks_started_by_hand():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ranks = [by_hand(rank, 2, port, 3) for rank in range(2)]
        (_, first), (_, second) = (rank.communicate(timeout=300) for rank in ranks)
    assert first == f"port 127.0.0.1:{port} is in use\nhint: choose another MASTER_PORT\n"
    assert f"rank 1 cannot reach rank 0 at 127.0.0.1:{port} within 3 s" in second


WORLD = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "h", "MASTER_PORT": "1"}


def test_the_environment_names_the_world():
    assert given_world({}) is None and own_rank({}) is None
    assert given_world(WORLD) == World(1, 4, 1, 4)
    assert given_world({**WORLD, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}) == World(1, 4, 0, 2)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"MASTER_ADDR": "", "MASTER_PORT": ""}, "the environment lacks MASTER_ADDR, MASTER_PORT"),
        ({"RANK": "one"}, "environment variable RANK is 'one', expected a number"),
        ({"RANK": "4"}, "RANK is 4, expected less than WORLD_SIZE, which is 4"),
    ],
)
def test_a_wrong_environment_is_refused(change, message):
    with pytest.raises(RinggraphError, match=re.escape(message)):
        given_world({**WORLD, **change})


def test_a_world_of_another_size_is_refused():
    check_size(World(0, 4, 0, 4), 4)
    check_size(World(0, 4, 0, 4), None)
    with pytest.raises(RinggraphError, match=re.escape("the world has 4 ranks (WORLD_SIZE), but --ep is 8")):
        check_size(World(0, 4, 0, 4), 8)


def test_reports_and_places_are_found_by_the_launcher(tmp_path):
    env = {"RINGGRAPH_RANKS": str(tmp_path), "RANK": "3"}
    assert not write_report(Report("x"), {}) and write_report(Report("no", True, (1,)), env)
    assert read_reports(tmp_path) == {3: Report("no", True, (1,))}
    place = Place(tmp_path, 3)
    place.phase("decode call 7")
    place.node("a.b")
    assert read_place(tmp_path, 3) == str(place) == "decode call 7, node 'a.b'"
    place.phase("x")
    assert read_place(tmp_path, 3) == "x" and read_place(tmp_path, 2) is None


def test_ranks_that_fail_alike_are_told_once(tmp_path):
    for rank in range(4):
        write_report(Report("too many rows"), {"RINGGRAPH_RANKS": str(tmp_path), "RANK": str(rank)})
    assert failure_text(tmp_path, range(4), {0: 1}) == "[ranks 0-3] too many rows"


def test_what_follows_from_another_rank_is_not_the_cause(tmp_path):
    write_report(Report("rank 1 is gone", True, (1,)), {"RINGGRAPH_RANKS": str(tmp_path), "RANK": "0"})
    write_report(Report("bad shard"), {"RINGGRAPH_RANKS": str(tmp_path), "RANK": "1"})
    assert failure_text(tmp_path, range(2), {0: 1, 1: 1}) == "[rank 1] bad shard\nrank 0 was ended with it"
    assert failure_text(tmp_path, range(3), {0: 1, 1: 1}) == "[rank 1] bad shard\nranks 0, 2 were ended with it"


def test_signals_mean_afterwards_what_they_meant_before():
    before = signal.getsignal(signal.SIGINT)
    with _signals_given_back():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) is before
