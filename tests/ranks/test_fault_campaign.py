"""Every kind of fault at every stage, however ranks were started: the cause is named, and only it; all end, in time.

`pytest -m slow tests/ranks/test_fault_campaign.py` runs all of them one after another; with RINGGRAPH_BUSY=4 in the environment,
four processes keep the processors busy meanwhile.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import product

import pytest
from places import TESTS
from rank_helpers import ended, free_port
from sampled import sampled
from warm import Warm

PROGRAMS = TESTS / "rank_programs"
BUSY = int(os.environ.get("RINGGRAPH_BUSY", "0"))
TIMEOUT_S, START_S = (20, 60) if BUSY else (8, 25)
LIMIT_S = 90
"""In which all have ended when the fault is there and no time has to run out; generous, for machines that are busy."""

LAUNCHER = f"""\
import sys
from runner.base.errors import RinggraphError
from runner.ranks.launch import launch
from runner.ranks.reports import end
try:
    launch([sys.executable, {str(PROGRAMS / "steps.py")!r}, '{TIMEOUT_S}', '{START_S}'], int(sys.argv[1]), timeout_s={TIMEOUT_S})
except RinggraphError as error:
    print(f"error: {{error}}", file=sys.stderr)
    end(1)
except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    end(130)
"""

STAGES = {"start": "^start$", "middle": "step 2, node", "collective": "step 1, node"}
ENDS_ITSELF = {"raise": 1, "leave": 3, "exit": 3, "kill": -9, "break": -2}
"""Exit status of the rank itself where nobody launched it; the others have to be ended by the test."""


@dataclass(frozen=True)
class Fault:
    action: str
    stage: str
    num_ranks: int
    rank: int

    @property
    def env(self) -> dict[str, str]:
        inside = "inside " if self.stage == "collective" and self.action in ("exit", "kill", "stop") else ""
        return {
            **os.environ,
            "RINGGRAPH_FAULT": f"{self.rank}|{STAGES[self.stage]}|{inside}{self.action}",
            "PYTHONPATH": f"{PROGRAMS / 'faults'}{os.pathsep}{PROGRAMS.parents[1]}",
        }

    @property
    def waits_s(self) -> float:
        """How long others wait for the rank before they give up."""
        if self.stage == "start":
            return START_S
        return TIMEOUT_S if self.action in ("stop", "hang") else 0

    def __str__(self) -> str:
        return f"{self.action}-{self.stage}-{self.rank}of{self.num_ranks}"


def _faults(actions: tuple[str, ...]) -> list[Fault]:
    found = []
    for at, (action, stage, num_ranks) in enumerate(product(actions, STAGES, (2, 4))):
        found.append(Fault(action, stage, num_ranks, at % num_ranks if num_ranks == 4 else at // 2 % 2))
    return found


LAUNCHED = _faults(("raise", "kill", "stop", "hang", "exit", "leave", "interrupt"))
BY_HAND = [fault for fault in _faults(("raise", "kill", "stop", "hang", "exit", "break")) if fault.stage != "start" or fault.rank]
TORCHRUN = [Fault(action, "middle", 2, 1) for action in ("raise", "kill", "exit")]


def blamed(text: str) -> set[int]:
    """The ranks that a message names as the cause."""
    found = set()
    for ranks in re.findall(r"ranks? ([\d, -]+) (?:failed|did not|closed|left)", text):
        for part in ranks.split(", "):
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    return found


def check_clean(err: str) -> None:
    """Nothing of the interpreter's or the C++ runtime's end."""
    assert "terminate called" not in err and "Fatal Python error" not in err, err


def started(arguments: list[str], env: dict[str, str]) -> subprocess.Popen:
    """Python as a user starts it: forked ranks would begin and end before anybody has seen them."""
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def check_launched(fault: Fault) -> None:
    start = time.monotonic()
    process = started(["-c", LAUNCHER, str(fault.num_ranks)], fault.env)
    status, out, err = ended(process)
    elapsed_s = time.monotonic() - start
    check_clean(err)
    assert "Traceback" not in err and "done" not in out, err
    assert elapsed_s < LIMIT_S + fault.waits_s, f"{elapsed_s:.1f} s"
    if fault.action == "interrupt":
        assert (status, err) == (130, "interrupted\n")
        return
    first = err.splitlines()[0]
    own = {
        "raise": f"error: [rank {fault.rank}] failed in ",
        "kill": f"error: [rank {fault.rank}] was killed (SIGKILL) in ",
        "exit": f"error: [rank {fault.rank}] ended with exit code 3",
        "leave": f"error: [rank {fault.rank}] ended with exit code 3",
    }
    assert status == 1, err
    if fault.action in own:
        assert first.startswith(own[fault.action]), err
        assert blamed(err) == set(), err
        assert err.count("[rank") == 1, err
    else:
        assert blamed(err) == {fault.rank}, err
        assert re.search(rf"rank {fault.rank} did not (answer|come to \S+) within", first), err
        assert f"rank {fault.rank} was last in " in err


def check_by_hand(fault: Fault) -> None:
    """Nothing but the environment says who the ranks are."""
    start = time.monotonic()
    world = {"WORLD_SIZE": str(fault.num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [PROGRAMS / "steps.py", TIMEOUT_S, START_S]
    ranks = [Warm(command, {**fault.env, **world, "RANK": str(rank)}) for rank in range(fault.num_ranks)]
    try:
        for rank, process in enumerate(ranks):
            if rank != fault.rank:
                out, err = process.communicate(timeout=LIMIT_S + fault.waits_s)
                check_clean(err)
                assert (process.returncode, out) == (1, ""), err
                assert blamed(err) == {fault.rank}, err
                if fault.action == "raise" and fault.stage != "start":
                    assert f"rank {fault.rank} failed: the test made this up" in err
        if fault.action in ENDS_ITSELF:
            _, err = ranks[fault.rank].communicate(timeout=LIMIT_S)
            check_clean(err)
            assert ranks[fault.rank].returncode == ENDS_ITSELF[fault.action], err
            assert blamed(err) == set()
        assert time.monotonic() - start < LIMIT_S + fault.waits_s
    finally:
        for process in ranks:
            process.kill()
            process.wait()


def check_torchrun(fault: Fault) -> None:
    """torchrun holds the store, and ends the ranks that are left; all of these are processes that nobody forked."""
    options = ["--nproc-per-node", str(fault.num_ranks), "--master-port", str(free_port())]
    command = ["-m", "torch.distributed.run", *options, str(PROGRAMS / "steps.py"), str(TIMEOUT_S), str(START_S)]
    process = started(command, fault.env)
    status, out, err = ended(process)
    check_clean(err)
    assert (status, out) == (1, ""), err
    assert blamed(err) <= {fault.rank}, err
    if fault.action == "raise":
        assert "the test made this up" in err


CHECKS = {"launched": check_launched, "by hand": check_by_hand, "torchrun": check_torchrun}
ALL = [(way, fault) for way, faults in zip(CHECKS, (LAUNCHED, BY_HAND, TORCHRUN), strict=True) for fault in faults]


OF_EACH_KIND = [
    ("launched", Fault("leave", "middle", 2, 0)),
    ("by hand", Fault("kill", "collective", 2, 1)),
    ("torchrun", TORCHRUN[0]),
    ("launched", Fault("interrupt", "start", 2, 1)),
    ("by hand", Fault("raise", "middle", 2, 0)),
    ("by hand", Fault("stop", "middle", 2, 0)),
]


@pytest.mark.parametrize(("way", "fault"), sampled(OF_EACH_KIND, OF_EACH_KIND[1:3]), ids=str)
def test_a_fault_names_its_rank_and_ends_all(way, fault):
    CHECKS[way](fault)


@pytest.fixture(scope="module")
def busy():
    """Processes that keep the processors busy, as many as RINGGRAPH_BUSY says."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY)]
    yield
    for process in spinning:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("way", "fault"), ALL, ids=str)
def test_every_fault(busy, way, fault):
    CHECKS[way](fault)
