"""`view:`: what graphs with views compute, on rings and threads, against torch; their edges, plans and files."""

import pytest
import torch

from runner import Driver
from runner.program.ops import OpRegistry

pytestmark = pytest.mark.usefixtures("short_searches")

ops = OpRegistry()


@ops.op("twice", "x: {t}[...] -> y: {t}[...]", core="AIV")
def twice(x, *, y):
    y.copy_(x * 2)


@ops.op("add_to", "x: f32[...] -> &y: f32[...]", core="AIV")
def add_to(x, *, y):
    y += x


@ops.op("row_sums", "x: f32[A, B] -> y: f32[A]", core="AIV")
def row_sums(x, *, y):
    y.copy_(x.sum(-1))


@ops.op("how_many", "x: f32[A] -> n: i32[B]", core="AIV", params={"most": 3})
def how_many(x, *, n, most):
    n.fill_(most)


LAYER = "fields: {T: {type: integer, default: 5}, H: {type: integer, default: 4}, D: {type: integer, default: 8}}\n"
INNER = """
graph: inner
inputs: {rows: "f32[T, D]"}
outputs: {sums: "f32[T]", copy: "f32[T, D]"}
body:
  - {op: row_sums, in: {x: rows}, out: {y: sums}}
  - {view: pairs, of: rows, type: "f32[T, 1, D]"}
  - {view: to, of: copy, type: "f32[T, 1, D]"}
  - {op: twice, in: {x: pairs}, out: {y: to}}
"""
GRAPH = """
graph: viewed
inputs: {x: "f32[T, H * D]"}
state: {kept: "f32[H, T * D]"}
outputs: {a: "f32[H, T]", b: "f32[T, H, D]", bits: "i32[T * H * D]"}
body:
  - {op: twice, in: {x: x}, out: {y: "q: f32[T, H * D]"}}
  - {view: heads, of: q, type: "f32[T, H, D]"}
  - {op: how_many, in: {x: "q[0]"}, out: {n: "n: i32[H]"}, attrs: {most: H - 1}}
  - {view: counts, of: n, type: "i32[H, 1]"}
  - for: h
    range: counts[0, 0]
    max: H - 1
    body:
      - {op: add_to, in: {x: "heads[:, h]"}, out: {y: "heads[:, h + 1]"}}
  - for: h
    range: H
    body:
      - {view: mine, of: "kept[h]", type: "f32[T, D]"}
      - {view: shown, of: "heads[:, h]", type: "f32[T, D]"}
      - alloc: {copy: "f32[T, D]"}
      - {use: inner, with: {rows: shown, sums: "a[h]", copy: mine}}
      - {op: twice, in: {x: mine}, out: {y: copy}}
      - {op: twice, in: {x: copy}, out: {y: "b[:, h]"}}
  - {view: words, of: q, type: "i32[T * H * D]"}
  - {op: twice, in: {x: words}, out: {y: bits}}
"""


@pytest.fixture
def folder(tmp_path):
    for name, text in {"layer": LAYER, "inner": INNER, "viewed": GRAPH}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def expected(x, t, h, d):
    heads = (2 * x).view(t, h, d).clone()
    for head in range(h - 1):
        heads[:, head + 1] += heads[:, head]
    flat = heads.reshape(t, h * d).contiguous()
    kept = torch.stack([2 * heads[:, head].reshape(-1) for head in range(h)])
    return {"a": heads.sum(-1).T, "b": 8 * heads, "bits": 2 * flat.view(torch.int32).flatten(), "kept": kept}


SCHEDULERS = ["annotated", "auto", "unscoped", "minpeak", "autoscope"]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("sizes", [(5, 4, 8), (1, 2, 3), (7, 6, 1)])
def test_views_compute_what_torch_does(folder, scheduler, workers, sizes):
    sets = [f"{name}={size}" for name, size in zip("THD", sizes, strict=True)]
    driver = Driver(folder / "layer.yaml", sets, ops=ops)
    assert driver.lint(folder / "viewed.yaml") == []
    x = torch.randn(sizes[0], sizes[1] * sizes[2])
    options = {"scheduler": scheduler, "ring_heap": "safe", "workers": workers, "keep": ("a", "b", "bits", "kept")}
    ran = driver.run(folder / "viewed.yaml", given={"x": x}, **options)
    for name, value in expected(x, *sizes).items():
        assert torch.allclose(ran.tensors[name].float(), value.float(), rtol=1e-5), name


def test_a_view_has_the_edges_of_its_bytes_and_no_bytes(folder):
    program = Driver(folder / "layer.yaml", ops=ops).expand(folder / "viewed.yaml")
    assert not {"heads", "mine", "shown", "words", "counts"} & {tensor.name for tensor in program.tensors}
    tasks = {task.path: task for task in program.tasks}
    adds = [tasks[f"h{trip}.add_to"] for trip in range(3)]
    made = tasks["twice"].id
    assert [add.waits for add in adds] == [(made,), (made, adds[0].id), (made, adds[1].id)]
    assert [add.operands["y"].box for add in adds] == [((0, 5), (8 * head, 8 * head + 8)) for head in (1, 2, 3)]
    readers = [task for task in program.tasks if task.op == "row_sums"]
    assert [reader.waits for reader in readers] == [(made,), *((made, add.id) for add in adds)]
    assert all(program.tasks[made].creates[0] in reader.uses for reader in readers)


def test_copies_of_trips_and_uses_are_what_expansion_makes(folder):
    from runner.config.config import load_config
    from runner.driver.driver import Setup
    from runner.expansion.expander import expand_all
    from runner.language.library import GraphLibrary

    (folder / "outer.yaml").write_text(
        'graph: outer\ninputs: {x: "f32[T, H * D]"}\noutputs: {s: "f32[6, H, T]", c: "f32[6, H, T * D]"}\nbody:\n'
        '  - {view: heads, of: x, type: "f32[T, H, D]"}\n  - for: i\n    range: 6\n    body:\n      - for: h\n'
        '        range: H\n        body:\n          - {view: to, of: "c[i, h]", type: "f32[T, D]"}\n'
        '          - {use: inner, with: {rows: "heads[:, h]", sums: "s[i, h]", copy: to}}\n'
        '  - for: i\n    range: 6\n    body:\n      - {op: twice, in: {x: "heads[:, 0]"}, out: {y: "d: f32[T, D]"}}\n'
        '      - {op: add_to, in: {x: d}, out: {y: "heads[:, i % H]"}}\n'
    )
    (folder / "inner.yaml").write_text(INNER.replace("of: rows", 'of: "rows[0 : T]"'))
    setup, made = Setup([folder / "layer.yaml"], ops=ops), []
    for stamp in (True, False):
        library = GraphLibrary()
        graph = library.load(folder / "outer.yaml")
        made.append(expand_all(graph, load_config([folder / "layer.yaml"]), setup.registry, library=library, stamp=stamp))
    codes = [[problem.code for problem in each.problems] for each in made]
    assert codes[0] == codes[1] and made[0].program.tasks == made[1].program.tasks


def test_what_explain_tells_of_a_view(folder, call):
    (folder / "some.py").write_text("from test_views import ops\n")
    given = (folder / "viewed.yaml", "h1.add_to", "--config", folder / "layer.yaml")
    text = str(Driver(folder / "layer.yaml", ops=ops).explain(given[0], given[1]))
    assert "inout   y: q[:, 16:24] by a view, f32[5, 8], 160 bytes" in text


def test_scopes_are_written_around_views(folder):
    from runner.driver.planning import PlanRequest, plan

    driver = Driver(folder / "layer.yaml", ops=ops)
    for scheduler in ("minpeak", "autoscope"):
        made = plan(driver.setup, PlanRequest(folder / "viewed.yaml", scheduler, write=True))
        for path, text in made.texts.items():
            path.write_bytes(text)
        assert driver.lint(folder / "viewed.yaml") == []
        assert (folder / "viewed.yaml").read_text().count("view: ") == GRAPH.count("view: ")
        x = torch.randn(5, 32)
        ran = driver.run(folder / "viewed.yaml", given={"x": x}, ring_heap="safe")
        assert torch.allclose(ran.tensors["b"], expected(x, 5, 4, 8)["b"])


def test_a_range_cannot_read_a_view_of_another_dtype(folder):
    text = GRAPH.replace('type: "i32[H, 1]"', 'type: "f32[H, 1]"')
    (folder / "viewed.yaml").write_text(text)
    found = Driver(folder / "layer.yaml", ops=ops).lint(folder / "viewed.yaml")
    assert [problem.code for problem in found] == ["G326"] and "a view that shows i32 as f32" in found[0].message
