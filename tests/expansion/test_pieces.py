"""The example at the head of `runner.expansion.copying.pieces`, and what its template says."""

from __future__ import annotations

from dataclasses import fields, replace
from textwrap import dedent, indent
from types import SimpleNamespace
from typing import Any

import pytest

from runner.expansion.copying import copies, pieces
from runner.expansion.expander import expand
from runner.language.library import load_graph
from runner.program.ops import OpRegistry
from runner.program.program import Program

CONFIG: Any = SimpleNamespace(values={}, dtypes={})
OPS = OpRegistry()
OPS.op("f", "x: f32[N] -> y: f32[N]", core="AIV")(lambda **_: None)
OPS.op("g", "x: f32[N], w: f32[N] -> y: f32[N]", core="AIV")(lambda **_: None)

HEAD = 'graph: example\ninputs: {a: "f32[8]", w: "f32[3, 8]"}\noutputs: {s: "f32[8]"}\nbody:\n'


@pytest.fixture
def templates(monkeypatch) -> list[pieces.Template]:
    """All templates that are made."""
    made: list[pieces.Template] = []
    original = copies.template

    def noted(*args):
        made.append(found := original(*args))
        return found

    monkeypatch.setattr(copies, "template", noted)
    return made


@pytest.fixture
def program(tmp_path, templates) -> Program:
    assert pieces.__doc__ is not None
    example = dedent(pieces.__doc__.partition("\n\n")[2].partition("\n\n")[0])
    (tmp_path / "example.yaml").write_text(HEAD + indent(example, "  "))
    return expand(load_graph(tmp_path / "example.yaml"), CONFIG, OPS)


def test_what_the_copies_wait_for(program):
    assert [task.path for task in program.tasks] == ["i0.f", "i0.g", "i1.f", "i1.g", "i2.f", "i2.g"]
    assert [task.waits for task in program.tasks] == [(), (0,), (), (1, 2), (), (3, 4)]
    assert [tensor.name for tensor in program.tensors if tensor.is_local] == ["d", "d", "d"]
    assert [task.operands["w"].box for task in program.tasks if task.op == "g"] == [((i, i + 1), (0, 8)) for i in range(3)]


def test_a_task_of_a_copy_is_a_task(program):
    copied = [task for task in program.tasks if isinstance(task, pieces.CopiedTask)]
    assert [task.path for task in copied] == ["i1.f", "i1.g", "i2.f", "i2.g"]
    for task in copied:
        kept = replace(task)
        assert type(kept) is type(program.tasks[0]) and kept == task and task == kept
        assert (kept.names, tuple(kept.regions), kept.num_arguments) == (task.names, task.regions, task.num_arguments)
        assert all(replace(task, **{field.name: "other"}) != task for field in fields(task))


def test_the_template(program, templates):
    (found,) = templates
    (_, (f, g)) = found.runs[0]
    regions = [*found.makes[0], *[program.tensors[region.tensor] for region, _ in found.regions]]
    assert [tensor.name for tensor in regions][:2] == ["d", "a"]
    assert (f.inside, g.inside and g.inside((2, 3))) == (None, (2,))  # d is settled: g of the copy follows f of the copy
    assert [[regions[number].name for number in found.groups[step.steady]] for step in (f, g)] == [["a"], []]
    assert [ref.name for ref, _, _ in found.views] == ["w"]
    assert [(access.is_read, access.is_write) for access in g.accesses] == [(True, False), (False, True)]  # w[i], s
    assert not f.accesses
