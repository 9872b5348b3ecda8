"""Hints of missing edges are followed, as an editor does it, until none is left."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import random_lists
from sampled import sampled

from runner.base.errors import Edge, Hint
from runner.editor.fixes import fixes
from runner.editor.workspace import Workspace


def follow(path: Path) -> set[str]:
    """Writes what the hints say, one for each item; what the other hints of missing edges are."""
    space = Workspace(folder=path.parent, folders=[path.parent])
    edits, others = {}, set()
    for finding in random_lists.findings(path):
        is_edge = isinstance(finding.hint, Hint) and any(isinstance(remedy, Edge) for remedy in finding.hint.remedies)
        if is_edge:
            fix = next(fixes(space, finding), None)
            assert fix is not None, f"what the hint says is there: {finding}"
            edits[fix.file, fix.edit.start] = fix.edit
        elif finding.code in ("G312", "G318", "G337", "G341"):
            others.add(str(finding.hint))
    for (file, _), edit in sorted(edits.items(), key=lambda found: -found[1].start):
        text = Path(file).read_text(encoding="utf-8")
        Path(file).write_text(text[: edit.start] + edit.text + text[edit.end :], encoding="utf-8")
    return follow(path) if edits else others


@pytest.mark.parametrize("seed", sampled(range(120), [2, 4]))
def test_hints_of_missing_edges_are_of_use(tmp_path, seed):
    """Each adds what was not there, until what is left says that no `after` can name the other task."""
    rng = random.Random(seed)
    graph, stage = random_lists.graphs(rng)
    for item in random_lists.bodies(graph["body"]):
        if "after" in item and rng.random() < 0.5:
            del item["after"]
        if "scope" in item and rng.random() < 0.4 and not any("scope" in inner for inner in random_lists.bodies(item["body"])):
            item["mode"] = "manual"
    left = follow(random_lists.written(tmp_path, graph, stage))
    assert all("means an item nearer" in hint or "lies in a used graph" in hint for hint in left), left


TEXT = """\
graph: made
inputs: {x: "f32[4, 256]"}
outputs: {y: "f32[4, 256]"}
body:
  - {op: join, id: one, in: {a: x, b: x}, out: {y: "h: f32[4, 256]"}}
  - scope: fast
    mode: manual
    body:
      - {op: join, id: %s, in: {a: x, b: x}, out: {y: "g: f32[4, 256]"}}
      - {op: join, id: two, in: {a: h, b: g}, out: {y: y}, after: [%s]}
"""


@pytest.mark.parametrize(
    ("inner", "hint"),
    [
        ("other", "add 'after: [one]' to 'two'"),
        ("one", "'one' means an item nearer to 'two': give 'one' an id of its own"),
    ],
)
def test_an_id_that_another_hides_is_told(tmp_path, inner, hint):
    path = tmp_path / "made.yaml"
    path.write_text(TEXT % (inner, inner))
    found = [str(finding.hint) for finding in random_lists.findings(path) if finding.code == "G318"]
    assert found and all(each.startswith(hint) for each in found)
