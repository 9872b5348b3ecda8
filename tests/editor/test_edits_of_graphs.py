"""What the editor changes in graphs: fixes remove their findings, renames change no meaning, completions fit where they stand."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from places import TESTS

from runner.base.errors import RinggraphError
from runner.editor import navigation
from runner.editor.completion import complete
from runner.editor.fixes import fixes
from runner.editor.hover import hover
from runner.editor.outline import hints, outline
from runner.editor.reading.symbols import TENSORS
from runner.editor.settings import Settings, read_settings
from runner.editor.workspace import Workspace
from runner.language.library import shipped_graphs

CASES = sorted((TESTS / "lint" / "cases").glob("*.yaml"))
GRAPH = """graph: g
inputs: {x: "{act}[T, D]"}
weights: {w: {type: "{wd}[D]", from: "w"}}
outputs: {y: "{act}[T, D]"}
body:
  - op: rms_norm
    in: {x: x, w: w}
    out: {y: "h: {act}[T, D]"}
  - for: t
    range: 2
    body:
      - op: rms_norm
        id: second
        in: {x: h, w: w}
        out: {y: y}
"""


def workspace(path: Path, text: str | None = None, **settings) -> Workspace:
    made = Workspace(folder=path.parent, settings=Settings(**settings), folders=[path.parent])
    made.put(str(path), path.read_text(encoding="utf-8") if text is None else text)
    return made


def edited(space: Workspace, file: str, edits) -> Workspace:
    """The same workspace after edits of a file."""
    text = space.text(file)
    assert text is not None
    after = copied(space)
    after.put(file, navigation.applied(text.value, edits))
    return after


def copied(space: Workspace) -> Workspace:
    """A workspace that has the same open and has worked nothing out."""
    made = Workspace(folder=space.folder, settings=space.settings, folders=space.folders)
    for text in space.open.values():
        made.put(text.file, text.value)
    return made


def test_fixes_remove_their_findings():
    num, codes = 0, set()
    for path in CASES:
        space = workspace(path, config=("tiny",), deploy="decode")
        before = space.findings(str(path))
        for finding in before:
            for fix in fixes(space, finding):
                after = edited(space, fix.file, [fix.edit]).findings(str(path))
                place = (finding.code, finding.mark and finding.mark.line, finding.message)
                assert place not in [(each.code, each.mark and each.mark.line, each.message) for each in after], (path, fix)
                num += 1
                codes.add(finding.code)
    assert num >= 18 and codes >= {"G101", "G103", "G104", "G302", "G312", "G318", "G322"}, (num, sorted(codes))


@pytest.mark.parametrize(
    "old, new, fixed",
    [
        ("in: {x: h, w: w}", "in: {x: hh, w: w}", "in: {x: h, w: w}"),
        ("- op: rms_norm\n    in", "- op: rms_nrom\n    in", "- op: rms_norm\n    in"),
        ("in: {x: x, w: w}", "in: {x: x, ww: w}", "in: {x: x, w: w}"),
        ('y: "h: {act}[T, D]"', "y: h: {act}[T, D]", 'y: "h: {act}[T, D]"'),
        ("range: 2", "rang: 2", "range: 2"),
    ],
)
def test_a_fix_gives_the_text_that_was_meant(tmp_path, old, new, fixed):
    path = tmp_path / "g.yaml"
    space = workspace(path, GRAPH.replace(old, new, 1))
    (found,) = [fix for finding in space.findings(str(path)) for fix in fixes(space, finding)]
    after = edited(space, fix_file := found.file, [found.edit])
    assert after.text(fix_file).value == GRAPH.replace(old, fixed, 1) == GRAPH
    assert after.findings(str(path)) == []


def renames(name: str, chance: random.Random, number: int):
    """Random names of a graph, each with its new one."""
    path = shipped_graphs()[name]
    space = workspace(path)
    index = space.index(str(path))
    kinds = TENSORS | {"param", "variable", "scope", "id"}
    places = [each for each in index.occurrences if each.symbol.kind in kinds and not each.symbol.is_implied]
    for each in chance.sample(places, min(number, len(places))):
        new = chance.choice(["fresh_name", *sorted({other.symbol.name for other in places})])
        yield space, str(path), each, new


@pytest.mark.parametrize("name", ["moe", "attention_decode_csa", "decode_fwd"])
def test_a_rename_changes_no_meaning(name):
    """The renamed graph has the same program but for names; where a name is taken, nothing is done."""
    chance, done, refused = random.Random(7), 0, 0
    for space, path, each, new in renames(name, chance, 10):
        try:
            edits = navigation.rename(space, path, each.start, new)
        except RinggraphError as error:
            refused += 1
            assert "taken" in error.message or "cannot be renamed" in error.message
            continue
        after = copied(space)
        for file, made in edits.items():
            after.put(file, navigation.applied(space.text(file).value, made))
        for file in edits:
            assert after.findings(file) == []
        old, renamed = space.program(path), after.program(path)
        assert shape(old) == shape(renamed), (each.symbol, new)
        done += 1
    assert done >= 2 and done + refused == 10


def shape(program):
    """A program without its names: what each task does to which tensors, and what it waits for."""
    return [
        (task.op, [(name, region) for name, region in task.operands.items()], task.attrs, task.waits, task.after, task.creates)
        for task in program.tasks
    ], [(tensor.spec, tensor.kind) for tensor in program.tensors]


def test_a_rename_goes_through_other_files(tmp_path):
    path, user = tmp_path / "g.yaml", tmp_path / "user.yaml"
    path.write_text(GRAPH, encoding="utf-8")
    text = 'graph: user\ninputs: {x: "{act}[T, D]", a: "{act}[T, D]"}\noutputs: {y: "{act}[T, D]", z: "{act}[T, D]"}\nbody:\n'
    text += "  - use: g\n  - {use: g, id: two, with: {x: a, y: z}}\n"
    user.write_text(text, encoding="utf-8")
    space = workspace(path)
    edits = navigation.rename(space, str(path), GRAPH.index('x: "{act}'), "given")
    assert {Path(file).name for file in edits} == {"g.yaml", "user.yaml"}
    after = navigation.applied(text, edits[str(user)])
    assert "  - use: g\n    with: {given: x}\n  - {use: g, id: two, with: {given: a, y: z}}\n" in after
    space = workspace(user)
    edits = navigation.rename(space, str(user), text.index('x: "{act}'), "mine")
    assert set(edits) == {str(user)}
    assert "  - use: g\n    with: {x: mine}\n" in navigation.applied(text, edits[str(user)])


@pytest.mark.parametrize(
    "where, reason",
    [
        ("rms_norm", "declared with its op"),
        ("T, D", "configuration"),
        ("act}", "configuration"),
        ("graph: g", "no name"),
        ("range", "no name"),
    ],
)
def test_what_cannot_be_renamed(tmp_path, where, reason):
    path = tmp_path / "g.yaml"
    with pytest.raises(RinggraphError, match=reason):
        navigation.rename(workspace(path, GRAPH), str(path), GRAPH.index(where), "other")


@pytest.mark.parametrize(
    "where, new",
    [('x: "{act}', "w"), ('x: "{act}', "h"), ("h: {act}", "y"), ("second", "t"), ("for: t", "second"), ('x: "{act}', "T")],
)
def test_a_name_that_is_taken(tmp_path, where, new):
    path = tmp_path / "g.yaml"
    at = GRAPH.index(where) + (5 if where == "for: t" else 0)
    with pytest.raises(RinggraphError, match="taken"):
        navigation.rename(workspace(path, GRAPH), str(path), at, new)


@pytest.mark.parametrize(
    "before, typed, wanted, unwanted",
    [
        ("body:\n", "  - op: rms_", {"rms_norm"}, {"x"}),
        ("    range: 2\n    body:\n", "      - op: rms_norm\n        in: {x: ", {"x", "h", "w", "y"}, {"rms_norm", "T"}),
        ("body:\n", "  - op: rms_norm\n    in: {x: ", {"x", "w", "y"}, {"h"}),
        ("body:\n", '  - op: rms_norm\n    in: {x: "x[', {"T", "D", "min"}, {"x"}),
        ("body:\n", "  - op: rms_norm\n    in: {", {"x", "w"}, {"y"}),
        ("body:\n", "  - op: rms_norm\n    out: {", {"y"}, {"x"}),
        ("body:\n", "  - op: rms_norm\n    attrs: {", {"eps"}, {"x"}),
        ("body:\n", '  - alloc:\n      a: "', {"{act}", "f32", "i8"}, {"x"}),
        ("body:\n", '  - alloc: {a: "{', {"act", "wd"}, {"f32"}),
        ("body:\n", "  - ", {"op", "alloc", "for", "use"}, {"x"}),
        ("        id: second\n", "        after: [", {"rms_norm"}, {"x"}),
        ("", "", {"deploy", "params", "state"}, {"graph", "body"}),
        ("graph: g\n", "deploy: ", {"decode", "prefill"}, set()),
        ("body:\n", "  - use: ", {"moe", "head"}, set()),
        ("body:\n", "  - use: head\n    with: {", {"x_hc", "logits"}, {"x"}),
        ("body:\n", "  - for: t\n    range: ", {"T", "num_hidden_layers", "x"}, {"rms_norm"}),
    ],
)
def test_completion_in_mid_edit(tmp_path, before, typed, wanted, unwanted):
    path = tmp_path / "g.yaml"
    at = GRAPH.index(before) + len(before)
    text = GRAPH[:at] + typed + "\n" + GRAPH[at:]
    offers, where = complete(workspace(path, text), str(path), at + len(typed))
    found = {offer.text for offer in offers}
    assert wanted <= found and not found & unwanted, sorted(found)[:40]
    assert text[where.start : where.end] == re.search(r"\w*$", typed)[0]


def test_layers_of_a_configuration(tmp_path):
    path = tmp_path / "mine.yaml"
    text = "model: deepseek_v4\nhidden_size: 64\nhiden_size: 3\n\n"
    space = workspace(path, text)
    (found,) = [each for each in space.layer_findings(str(path)) if each.mark.line == 3]
    assert found.code == "C101" and [fix.edit.text for fix in fixes(space, found)] == ["hidden_size"]
    offers = {offer.text: offer for offer in complete(space, str(path), len(text))[0]}
    assert "embedding" in offers["vocab_size"].doc or offers["vocab_size"].doc
    assert hover(space, str(path), text.index("hidden_size") + 2)[0].startswith("`hidden_size`")


def test_open_texts_win_over_files_and_layers_count(tmp_path):
    path, user, layer = tmp_path / "g.yaml", tmp_path / "user.yaml", tmp_path / "layer.yaml"
    layer.write_text("hidden_size: 64\n", encoding="utf-8")
    space = Workspace(folder=tmp_path, settings=Settings(config=("tiny", str(layer))))
    space.put(str(user), 'graph: user\ninputs: {x: "{act}[T, D]"}\noutputs: {y: "{act}[T, D]"}\nbody:\n  - use: g\n')
    assert [each.code for each in space.findings(str(user))] == ["G311"]
    space.put(str(path), GRAPH)  # which was never saved
    assert space.findings(str(user)) == []
    texts = [hint.text for hint in hints(space, str(user), 0, 200)]
    assert texts == ["f32[8, 64], 2.0 KiB"] * 2
    space.put(str(layer), "hidden_size: 128\n")
    assert [hint.text for hint in hints(space, str(user), 0, 200)] == ["f32[8, 128], 4.0 KiB"] * 2
    space.put(str(path), GRAPH.replace("op: rms_norm", "op: rms_nrom", 1))
    assert {(each.code, Path(each.mark.file).name) for each in space.findings(str(user))} >= {("G302", "g.yaml")}


def test_settings():
    given = {
        "config": "flash",
        "ep": 2,
        "ringHeap": "1GiB",
        "files": {"qwen/*": {"config": ["qwen3-tiny"]}},
        "nonsense": 1,
        "ops": 3,
    }
    found, problems = read_settings(given)
    assert found.config == ("flash",) and found.ring_heap == "1GiB" and len(problems) == 2
    assert found.for_file(Path("/w/qwen/g.yaml"), Path("/w")).config == ("qwen3-tiny",)
    assert found.for_file(Path("/w/g.yaml"), Path("/w")).config == ("flash",)
    assert read_settings(None) == (Settings(), []) and read_settings([1])[1]


def test_outline_and_hints():
    for name, path in [*shipped_graphs().items()][::3]:
        space = workspace(path, config=("qwen3-tiny",) if "qwen3" in name else ())
        parts = outline(space, str(path))
        assert [part.name for part in parts][-1] == "body" and parts[-1].inside
        shown = hints(space, str(path), 0, 1 << 20)
        assert len(shown) > 3 and all(0 < hint.offset <= len(space.text(str(path)).value) for hint in shown)
