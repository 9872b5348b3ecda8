"""The seed's table from our own graphs, and their blocks against the traced program; both from public sources.

Source: the seed document (126 %, 90.6 %, 71.2 %) and the traced program of the reference in `data/seed-program`.
"""

import pytest

from runner.figures_seed import TRACES, VARIANTS, compare_stages, figures_of, seed_program, stages
from runner.interchange import Builder, read_trace
from runner.schedule import Slot, Submission
from schedulers import get_scheduler


@pytest.fixture(scope="module")
def program():
    return seed_program()


def _ours(program, strategy):
    return get_scheduler(strategy)(program, {"batch_allocs": True})


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.strategy)
def test_the_seeds_table_from_our_graphs(program, variant):
    ours = figures_of(_ours(program, variant.strategy))
    traced = figures_of(read_trace(TRACES / f"program_{variant.trace}.jsonl.xz"))
    assert ours.ring == traced.ring
    assert ours.high_water_percent == pytest.approx(variant.reported_percent, abs=0.4)
    assert ours.high_water_percent == pytest.approx(traced.high_water_percent, abs=0.4)
    assert ours.least_bytes[1] == traced.least_bytes[1]
    assert ours.least_bytes[2] == pytest.approx(traced.least_bytes[2], rel=0.02)  # row tiles: another routing


def test_blocks_against_the_trace(program):
    """All stages have the same blocks but those that docs/memory-model.md explains: 40 of the 87, and the head's vocabulary."""
    same, differences = compare_stages(_ours(program, "auto"), read_trace(TRACES / "program_c.jsonl.xz"))
    assert same == 47
    found = sorted((d.stage, d.count) for d in differences)
    assert found == [("attention", 20), ("attention", 20), ("lm_head", 8)]
    for difference in differences:
        if difference.stage == "attention":
            assert _total(difference.ours) == _total(difference.traced)


def _total(blocks):
    counted = (word.rpartition("x") for word in blocks.replace(",", "").split())
    return sum(int(times or 1) * int(size) for times, _, size in counted)


def test_stages_are_written_shortly():
    build = Builder()
    build.begin("root")
    build.submit(Submission("r", 1024, (Slot(0, 0, 1024, "r"),)))
    build.begin("stage")
    for tensor in (1, 2):
        build.submit(Submission("s", 2048, (Slot(tensor, 0, 2048, "s"),)))
    build.begin("inner")
    build.submit(Submission("t", 4096, (Slot(3, 0, 4096, "t"),)))
    build.submit(Submission("empty"))
    for _ in range(3):
        build.end()
    assert list(stages(build.schedule("s", "hand"))) == [(None, "1,024"), (1, "2x2,048 { 4,096 }")]
