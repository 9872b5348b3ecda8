"""Pictures of all shipped graphs at every level: few boxes, and no ribbons; layers that are alike are drawn once."""

import re
import shutil

import pytest

from docs.figures.pictures import boxes, planned, presets, shape
from runner.language.library import shipped_graphs
from runner.program.program import Program
from runner.program.spans import spans_of
from runner.report.dot.dot import to_dot
from runner.report.dot.nodes import LEVELS, MAX_LAYER_BOXES, Drawing
from runner.report.folding import Likeness, layers, task_scopes

SMALL = [(graph, presets(graph)[0]) for graph in sorted(shipped_graphs())]
LARGE = [(graph, preset) for graph in sorted(shipped_graphs()) for preset in presets(graph)[1:]]
NEEDS_DOT = "Graphviz is not installed: shapes of pictures are not checked (apt-get install graphviz)"
CASES = [*SMALL, *(pytest.param(*case, marks=pytest.mark.slow) for case in LARGE)]


@pytest.mark.parametrize(("graph", "preset"), CASES)
def test_pictures_are_no_ribbons(graph, preset):
    for level in LEVELS:
        text = to_dot(planned(graph, preset), level)
        assert level != "layer" or boxes(text) <= MAX_LAYER_BOXES
        if shutil.which("dot") is not None:
            found = shape(text)
            assert found.ratio <= 3, f"{level}: {found}"
    if shutil.which("dot") is None:
        pytest.skip(NEEDS_DOT)


@pytest.mark.parametrize(("graph", "preset"), CASES)
def test_every_task_is_in_a_box_and_every_byte_is_counted_once(graph, preset):
    """Tasks and bytes of the boxes, each as often as it stands for, are those of the program."""
    schedule = planned(graph, preset)
    program = schedule.program
    assert isinstance(program, Program)
    for level in LEVELS:
        drawing = Drawing(schedule, program, level, fold=True)
        drawing.walk(program.body)
        drawing.settled()
        kept = {t.id for t in program.tasks if t.op is not None}
        assert kept <= drawing.by_task.keys()
        shown = [
            t for node in drawing.nodes.values() for t in (*node.created, *(x for held in node.allocs.values() for x in held))
        ]
        assert len(shown) == len({*shown})
        drawn = {t for task in drawing._drawn for t in program.tasks[task].creates}
        assert {*shown} == drawn


def test_folded_layers_are_alike_task_by_task():
    """Whatever is drawn once has the same ops, sizes and edges in each of its copies."""
    schedule = planned("decode_fwd", "tiny")
    program = schedule.program
    assert program is not None
    (loop,) = [span for span in spans_of(program.body) if span.kind == "for" and layers(program)[0] in span.items]
    classes = Likeness(program, task_scopes(schedule)).classes(loop)
    assert sorted(trip.path for alike in classes for trip in alike) == sorted(trip.path for trip in layers(program))
    assert any(len(alike) > 1 for alike in classes) and len(classes) > 1

    def told(trip):
        tasks = [program.tasks[t] for t in trip.tasks()]
        first = tasks[0].id
        return [
            (t.path.removeprefix(trip.path), t.op, [str(program.tensors[x].spec) for x in t.creates],
             [w - first for w in t.waits if w >= first])
            for t in tasks
        ]  # fmt: skip

    for alike in classes:
        assert all(told(trip) == told(alike[0]) for trip in alike)
    assert len({str(told(alike[0])) for alike in classes}) == len(classes)


def test_equal_layers_are_one_cluster_that_says_how_many():
    text = to_dot(planned("decode_fwd", "tiny"), "stage")
    marks = re.findall(r"\(x(\d+)\)", text)
    assert marks and all(int(mark) > 1 for mark in marks)
    unfolded = to_dot(planned("decode_fwd", "tiny"), "stage", unfold=True)
    assert "(x" not in unfolded and boxes(unfolded) > boxes(text)


def test_allocs_stand_with_what_first_writes_them():
    text = to_dot(planned("decode_fwd", "tiny"), "task")
    assert not re.search(r'label="[\w.]*alloc', text)
    assert re.search(r"alloc, ring [0-3]", text) and "; allocs of " in text
