"""DOT output: one node a group, clusters for scopes, bytes on edges, the same text every time."""

import shutil

import pytest

from runner.base.errors import RinggraphError
from runner.base.tensor_spec import TensorSpec
from runner.program.program import Program, Span, Task, Tensor
from runner.report.dot.dot import layers, render_svg, to_dot
from runner.rings.lowering.lower import lower
from runner.rings.placement import PlacedScope, PlacedTask
from runner.rings.schedule import Schedule


def _schedule() -> Schedule:
    """Two layers, each a stage of one task and a loop of two tiles that write parts of one tensor, inside a scope."""
    tensors, tasks, trips, items = [], [], [], []
    before: int | None = None
    for layer in range(2):
        path = f"layer_{layer}"
        first = len(tasks)
        tensors.append(Tensor(len(tensors), f"{path}.x", TensorSpec("f32", (256,))))
        out = len(tensors)
        tensors.append(Tensor(out, f"{path}.y", TensorSpec("f32", (1024,))))
        reads = () if before is None else (before,)
        waits = () if before is None else (first - 1, first - 2)
        tasks.append(
            Task(first, f"{path}.s.norm", "norm", "AIV", creates=(out - 1, out), reads=reads, writes=(out - 1,), waits=waits)
        )
        for tile in range(2):
            tasks.append(
                Task(
                    first + 1 + tile,
                    f"{path}.s.t{tile}.mm",
                    "mm",
                    "AIC",
                    uses=(out - 1, out),
                    reads=(out - 1,),
                    writes=(out,),
                    waits=(first,),
                )
            )
        loop = Span("for", f"{path}.s", tuple(Span("iteration", f"{path}.s.t{t}", (first + 1 + t,)) for t in range(2)))
        trips.append(Span("iteration", path, (Span("use", f"{path}.s", (first, loop)),)))
        items.append(
            PlacedScope(f"{path}.moe", tuple(PlacedTask(first + i) for i in range(3)), mode="manual" if layer else "auto")
        )
        before = out
    body = Span("root", "", (Span("for", "", tuple(trips)),))
    return lower(Program("demo", tuple(tensors), tuple(tasks), body), items, "annotated")


def test_a_layer_is_one_node_and_edges_carry_what_flows():
    text = to_dot(_schedule(), "layer")
    assert '"layer_0" -> "layer_1" [label="4.0 KiB", tooltip="y"];' in text
    assert text.count("fillcolor") == 2


def test_a_stage_is_one_node_inside_the_cluster_of_its_scope():
    text = to_dot(_schedule(), "stage")
    assert 'label="layer_0.moe (ring 1)"' in text and "style=dashed" in text  # manual
    assert '"layer_0.s" [label="s\\n3 tasks\\n5.0 KiB"' in text


def test_a_loop_of_tiles_is_drawn_once_with_its_trips():
    text = to_dot(_schedule(), "task")
    assert '"layer_0.s.t0.mm" [label="mm x2"' in text
    assert "t1.mm" not in text
    assert '"layer_0.s.norm" -> "layer_0.s.t0.mm" [label="1.0 KiB", tooltip="x"];' in text


def test_one_layer_can_be_drawn_alone():
    text = to_dot(_schedule(), "task", layer=1)
    assert "layer_1.s.norm" in text and "layer_0" not in text
    assert len(layers(_schedule().program)) == 2


def test_the_text_is_the_same_every_time():
    assert to_dot(_schedule(), "task") == to_dot(_schedule(), "task")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": "node"}, "level is 'node', expected one of layer, stage, task"),
        ({"level": "task", "layer": 2}, "layer is 2, but 'demo' has layers 0 to 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message):
    with pytest.raises(RinggraphError, match=message):
        to_dot(_schedule(), **arguments)


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
@pytest.mark.parametrize("level", ["layer", "stage", "task"])
def test_graphviz_renders_every_level(tmp_path, level):
    out = tmp_path / "demo.svg"
    render_svg(to_dot(_schedule(), level), out)
    assert "</svg>" in out.read_text()


def test_without_graphviz_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RinggraphError, match="apt-get install graphviz"):
        render_svg("digraph {}", tmp_path / "x.svg")
    assert list(tmp_path.iterdir()) == []


def test_a_graphviz_that_does_not_end_is_told(tmp_path, monkeypatch):
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    out = tmp_path / "x.svg"
    with pytest.raises(RinggraphError, match=r"graphviz did not finish '.*x.svg' within 0.2 s\nhint: draw less"):
        render_svg("digraph {}", out, timeout_s=0.2)
    assert not out.exists()
