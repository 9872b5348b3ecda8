"""The planner's techniques: every combination of them yields a correct plan, and the plan says what each of them gave."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest
from random_programs import loop_program, random_program, random_trips, run_in_order, run_shuffled
from sampled import sampled

from runner.base.errors import ConfigError
from runner.program.program import Program
from runner.rings.sizes import RingSizes
from runner.verify.verify import check
from schedulers.minpeak import folding, planner
from schedulers.minpeak.plan import Plan
from schedulers.minpeak.planner import plan
from schedulers.minpeak.techniques import ALL, TECHNIQUES, chosen

pytestmark = pytest.mark.usefixtures("short_searches")

NAMES = [technique.name for technique in TECHNIQUES]
GOALS: list[dict[str, Any]] = [
    {"share": True, "objective": "total"},
    {"share": True, "objective": "worst"},
    {"share": False, "objective": "total"},
    {"share": False, "objective": "worst"},
    {"share": True, "objective": "makespan"},
    {"share": False, "objective": "makespan"},
]


def by_default(goals: Sequence[dict[str, Any]], few: int, some: int, all_of_them: int) -> list[Any]:
    """Goals as parameters, each with how much is tried: `few` where that takes long, else `some`, and all in slow runs.

    Without sharing, scopes are annealed for each combination, so that one of these goals stands for all but in slow runs.
    """
    usual = ({"share": False, "objective": "total"}, *(goal for goal in goals if goal["share"]))
    found = []
    for goal in goals:
        is_quick = goal["share"] and goal["objective"] != "makespan"
        if goal in usual:
            num = some if is_quick else few
            found.append(pytest.param(goal, num, id=f"{goal} {num}"))
        found.append(pytest.param(goal, all_of_them, id=f"{goal} {all_of_them}", marks=pytest.mark.slow))
    return found


@pytest.fixture(autouse=True)
def small_programs_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops of the small programs of these tests fold as those of large ones do."""
    monkeypatch.setattr(planner, "FOLD_FROM", 0)
    monkeypatch.setattr(folding, "MIN_SAVED", 1)


def program_of(seed: int) -> Program:
    return loop_program(seed) if seed % 2 else random_program(seed, max_tasks=8)


def planned(program: Program, switches: dict[str, bool], goal: dict[str, Any]) -> Plan:
    return plan(program, goal | {"techniques": switches, "time_limit_s": 1e9})


def assert_sound(program: Program, switches: dict[str, bool], goal: dict[str, Any], seed: int) -> Plan:
    """The plan passes the verifier, runs in order and shuffled, and is not below its bound."""
    found = planned(program, switches, goal)
    sizes, said = RingSizes().with_heap(found.heap_bytes), f"{program.name} {goal} {switches}"
    assert check(found.schedule, sizes) == [], said
    rng = random.Random(seed)
    for run in range(2):
        trips = random_trips(program, rng)
        assert run_shuffled(program, found.schedule, sizes, trips, run) == run_in_order(program, trips), said
    assert found.certificate.value >= found.certificate.lower_bound - 1e-6, said
    if goal["objective"] == "total":
        assert sum(found.heap_bytes) >= found.certificate.peak_live_bytes, said
    assert {note.technique for note in found.explanation} <= {name for name in NAMES if switches.get(name, True)} | {
        "candidate",
        "winner",
    }, said
    return found


PAIRS = [*combinations(NAMES, 2)]


@pytest.mark.parametrize(("goal", "pairs"), by_default(GOALS, 0, 20, len(PAIRS)))
def test_all_pairs(goal: dict[str, Any], pairs: int) -> None:
    """All settings of each two techniques, the others on: none is off, one of them is, both are; both of so many pairs."""
    both = random.Random(pairs).sample(PAIRS, pairs) if pairs < len(PAIRS) else PAIRS
    for seed, off in enumerate([(), *((name,) for name in NAMES), *both]):
        assert_sound(program_of(seed), dict.fromkeys(off, False), goal, seed)


@pytest.mark.parametrize("num", sampled((5, 15), (5,)))
@pytest.mark.parametrize("goal", GOALS, ids=str)
def test_random_combinations(goal: dict[str, Any], num: int) -> None:
    rng = random.Random(0)
    for seed in range(num):
        assert_sound(program_of(1000 + seed), {name: rng.random() < 0.5 for name in NAMES}, goal, seed)
    for seed in range(num // 2):
        assert_sound(program_of(2000 + seed), dict.fromkeys(NAMES, False), goal, seed)


NEVER_WORSE = sorted(ALL - {"orders", "folding", "bodies"})
"""With these on, the planner takes the better of what it finds with and without. Not so `orders`, which share the rounds of
`learning`, `folding`, which stretches lives over whole loops to be fast, and `bodies`, which change what is searched."""


@pytest.mark.parametrize(("goal", "num"), by_default(GOALS[:4], 2, 8, 16))
def test_on_is_never_worse_than_off(goal: dict[str, Any], num: int) -> None:
    better: dict[str, int] = dict.fromkeys(NEVER_WORSE, 0)
    for seed in range(num):
        program = program_of(seed)
        best = planned(program, {}, goal).certificate.value
        for name in NEVER_WORSE:
            off = planned(program, {name: False}, goal).certificate.value
            assert best <= off, f"{program.name} without {name}"
            better[name] += best < off
    assert not goal["share"] or goal["objective"] == "total" or better["level_arenas"] > {8: 1, 16: 4}[num]


@pytest.mark.parametrize("num", sampled((4, 10), (4,)))
@pytest.mark.parametrize("goal", GOALS[:4], ids=str)
def test_a_bound_ends_the_search_and_changes_no_result(goal: dict[str, Any], num: int) -> None:
    for seed in range(num):
        short, full = (planned(program_of(seed), {"bounds": on}, goal) for on in (True, False))
        assert short.heap_bytes == full.heap_bytes and short.found_by == full.found_by
        assert len(short.explanation) <= len(full.explanation)


@pytest.mark.parametrize("num", sampled((4, 12), (4,)))
def test_each_technique_says_what_it_gave(num: int) -> None:
    """Over the objectives every technique that measures something is noted with its numbers, and the winner comes last."""
    noted: dict[str, int] = {}
    for seed in range(num):
        for goal in GOALS:
            found = planned(program_of(seed), {}, goal)
            assert found.explanation[-1].technique == "winner"
            assert found.explanation[-1].what.startswith(found.found_by)
            assert found.explanation[-1].after == pytest.approx(found.certificate.value)
            for note in found.explanation:
                noted[note.technique] = noted.get(note.technique, 0) + 1
                if note.technique in ("orders", "learning", "pruning", "folding"):
                    assert note.before is not None and note.after is not None and note.after <= note.before
    assert noted.keys() >= {"folding", "orders", "learning", "spread", "pruning", "level_arenas", "candidate", "winner"}


def test_names() -> None:
    assert len(set(NAMES)) == len(NAMES)
    for technique in TECHNIQUES:
        assert len(technique.why) == 2 and all(line.endswith(".") and len(line) < 126 for line in technique.why)
    assert chosen({}) == ALL
    assert chosen({"folding": False, "spread": True}) == ALL - {"folding"}


def test_an_unknown_technique_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown technique 'foldin'") as error:
        planned(program_of(0), {"foldin": False}, GOALS[0])
    assert "did you mean 'folding'?" in str(error.value.hint)
    with pytest.raises(ConfigError) as error:
        planned(program_of(0), {"zzz": True}, GOALS[0])
    assert "one of folding, orders" in str(error.value.hint)
