"""The seed's table from our own graphs, and their blocks against the traced program; both from public sources.

Source: the seed document (126 %, 90.6 %, 71.2 %) and the traced program of the reference in `data/seed-program`. The tables of
strategies and targets are compared, on a small case, with what the commands say about it.
"""

import json

import pytest

from docs.figures.cases import Case
from docs.figures.seed import TRACES, VARIANTS, compare_stages, figures_of, seed_program, stages
from docs.figures.strategies import STRATEGIES, cases, compare, print_rows
from docs.figures.targets import TARGETS, Target, find, print_targets
from runner.cli.main import main
from runner.recorded.programs import Builder, read_trace
from runner.rings.schedule import Slot, Submission
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


# --- strategies and targets -------------------------------------------------------------------------------------------

TINY = Case(("tiny",), "decode_fwd", 2, ("num_hidden_layers=1", "compress_ratios=[0, 0]"))


def _schedule_command(capsys, scheduler, *options):
    """What `ringgraph schedule` says about TINY in rings of 1 GiB."""
    sets = [word for text in TINY.sets for word in ("--set", text)]
    with pytest.raises(SystemExit) as ended:
        main(["schedule", "decode_fwd", "--config", "tiny", "--ep", "2", *sets, "--scheduler", scheduler, "--json", *options])
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    return json.loads(out)


def test_strategies_side_by_side(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    rows = {row.strategy: row for row in compare(TINY.program("random:0"))}
    assert list(rows) == list(STRATEGIES)
    print_rows("tiny", list(rows.values()))
    printed = capsys.readouterr().out
    for name, options in {"annotated": (), "minpeak": (), "minpeak, no sharing": ("--no-share",)}.items():
        row, said = rows[name], _schedule_command(capsys, name.partition(",")[0], "--routing", "random:0", *options)
        assert row.total_bytes == said["safe_total_bytes"] >= row.lower_bound_bytes
        assert f"{row.total_bytes / 2**20:,.1f}" in next(line for line in printed.splitlines() if line.startswith(f"{name}  "))
    assert rows["minpeak"].total_bytes == min(row.total_bytes for row in rows.values())
    assert all(row.timed_percent and row.lagging_percent and row.timed_percent <= row.lagging_percent for row in rows.values())


def test_targets_hold_for_any_routing(capsys):
    found = find(TINY.program("bound"))
    assert found.minpeak_bytes == _schedule_command(capsys, "minpeak")["safe_total_bytes"]
    assert found.annotated_bytes == _schedule_command(capsys, "annotated")["safe_total_bytes"]
    assert found.lower_bound_bytes <= found.minpeak_bytes <= found.annotated_bytes
    print_targets((Target("met", TINY, 2**10), Target("not met", TINY, 0), Target("none", TINY)))
    lines = {line.partition("  ")[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert "yes" in lines["met"] and "no" in lines["not met"] and not {"yes", "no"} & {*lines["none"]}


def test_cases_are_told_apart():
    for some in (cases(), [target.case for target in TARGETS]):
        assert len({case.name for case in some}) == len(some)
