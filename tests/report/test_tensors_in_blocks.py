"""Tensors in blocks: where they lie, who uses them first and last, and that no two have the same bytes at the same time."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib import pyplot
from places import DATA

from runner import Driver
from runner.report import rings
from runner.report.device.timeline import traced
from runner.report.page.blocks import blocks_of, times_of
from runner.report.rings import _rectangles, block_lives, draw_rings
from runner.report.tensors import tensors_of
from runner.rings.schedule import Begin, End, Submit

pytestmark = pytest.mark.usefixtures("short_searches")

CASES = {
    "moe": ("moe", (), "annotated"),
    "arenas": ("moe", (), "minpeak"),
    "layers": ("decode_fwd", (), "minpeak"),
    "qwen3": ("qwen3_prefill", ("qwen3-tiny",), "minpeak"),
    "recorded": (str(DATA / "captures" / "layers_1"), (), "annotated"),
    "recorded_arenas": (str(DATA / "captures" / "layers_1"), (), "minpeak"),
}


@pytest.fixture(scope="module", params=CASES)
def planned(request):
    graph, config, strategy = CASES[request.param]
    heap = None if strategy == "annotated" and "captures" in graph else "safe"
    return Driver(config).plan(graph, strategy, ring_heap=heap, progress="eager")


def test_uses_are_those_of_the_program_s_tasks(planned):
    """By hand: a tensor is used by every task with a kernel whose operands or blocks have it."""
    schedule = planned.schedule
    program, found = schedule.program, tensors_of(schedule)
    places = [
        (slot.tensor, i, slot.offset, slot.size_bytes) for i, item in enumerate(schedule.submissions) for slot in item.slots
    ]
    assert (
        list(zip(*(column.tolist() for column in (found.tensor, found.block, found.offset, found.size)), strict=True)) == places
    )
    users = {tensor: [] for tensor, *_ in places}
    for i, item in enumerate(schedule.submissions):
        task = None if item.task is None else program.tasks[item.task]
        if task is not None and task.op is not None:
            for tensor in {*task.creates, *task.uses, *task.reads, *task.writes}:
                users.get(tensor, []).append(i)
    reads_on_the_host = {tensor for _, tensor in _host_reads(program.body)}
    for t, (tensor, block, *_) in enumerate(places):
        assert found.first[t] == min(users[tensor], default=block)
        if tensor not in reads_on_the_host and tensor not in program.outputs.values():
            assert found.last[t] == max(users[tensor], default=block)
        assert block <= found.first[t] <= found.last[t]


def _host_reads(span):
    for item in span.items:
        if not isinstance(item, int):
            if item.trips is not None:
                yield from ((item, tensor) for tensor in item.trips.reads)
            yield from _host_reads(item)


def test_scopes_are_those_that_were_written(planned):
    schedule, found = planned.schedule, tensors_of(planned.schedule)
    if schedule.strategy == "minpeak":
        pytest.skip("an arena has no scopes of its own")
    stack, scope_of = [], {}
    for step in schedule.steps:
        if isinstance(step, Begin):
            stack.append(schedule.scopes[step.scope].name)
        elif isinstance(step, End):
            stack.pop()
        elif isinstance(step, Submit):
            scope_of[step.submission] = stack[-1]
    for t, block in enumerate(found.block.tolist()):
        assert found.scopes[found.scope[t]] == scope_of[block]


def test_no_two_tensors_of_a_block_have_the_same_bytes_at_once(planned):
    """Over submissions, and in the timed run: what the page draws in a block never overlaps."""
    schedule = planned.schedule
    found, blocks, timing = tensors_of(schedule), blocks_of(schedule), planned.timing()
    _, timeline = traced(schedule, planned.sizes, timing)
    times = times_of(schedule, blocks, timing, timeline)
    begins = {"submissions": found.first, "time": times.start[found.first]}
    ends = {"submissions": found.last + 1, "time": found.until(times.finish)}
    num_shared = 0
    for block in np.flatnonzero(found.count(len(schedule.submissions)) > 1).tolist():
        for a, b in combinations(np.flatnonzero(found.block == block).tolist(), 2):
            if found.offset[a] < found.offset[b] + found.size[b] and found.offset[b] < found.offset[a] + found.size[a]:
                num_shared += 1
                for name in begins:
                    assert ends[name][a] <= begins[name][b] or ends[name][b] <= begins[name][a], (name, a, b)
    assert num_shared if schedule.strategy == "minpeak" else not num_shared


def test_rings_draw_every_block_and_every_tensor_inside_its_block(planned):
    schedule, replay, found = planned.schedule, planned.replay, tensors_of(planned.schedule)
    lives = block_lives(schedule)
    shown = list(_rectangles(replay, lives, found))
    blocks = [item for item in schedule.submissions if item.size_bytes]
    drawn = shown[: len(blocks)]
    assert [one.height for one in drawn] == [item.size_bytes for item in blocks]
    assert [one.is_pale for one in drawn] == [len(item.slots) > 1 for item in blocks]
    inside = shown[len(blocks) :]
    slots = [(slot.name, slot.size_bytes, block) for block in drawn if block.is_pale for slot in _slots(schedule, lives, block)]
    assert [(one.name, one.height) for one in inside] == [(name, size) for name, size, _ in slots]
    for one, (*_, block) in zip(inside, slots, strict=True):
        assert block.y <= one.y and one.y + one.height <= block.y + block.height
        assert block.x <= one.x and one.x + one.width <= block.x + block.width


def _slots(schedule, lives, block):
    [submission] = [life.submission for life in lives if life.start == block.x]
    return schedule.submissions[submission].slots


@pytest.mark.parametrize(("graph", "strategy"), [("moe", "annotated"), ("moe", "minpeak"), ("attend_tile", "unscoped")])
def test_the_legend_of_a_picture_lies_on_no_axis(graph, strategy, monkeypatch, tmp_path):
    """Nor on what is written at an axis, however many rings there are."""
    found = Driver().plan(graph, strategy, ring_heap="safe", progress="eager")
    figures = []
    monkeypatch.setattr(rings, "save", lambda figure, *args, **options: figures.append(figure))
    draw_rings(found.replay, tmp_path / "rings.svg")
    (figure,) = figures
    figure.canvas.draw()
    legend = figure.legends[0].get_window_extent()
    assert not any(legend.overlaps(axis.get_tightbbox()) for axis in figure.axes)
    pyplot.close(figure)
