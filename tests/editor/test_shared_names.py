"""Lists of shared bytes in an editor: what may be written, what a name stands for in all files, renames that change nothing."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from sampled import sampled

from runner.base.errors import RinggraphError
from runner.editor import navigation
from runner.editor.completion import complete
from runner.editor.hover import hover
from runner.editor.outline import outline
from runner.editor.settings import Settings
from runner.editor.workspace import Workspace
from runner.language.structure import schema

NORM = '{{op: rms_norm, in: {{x: {}, w: w}}, out: {{y: "{}"}}}}'
HEAD = """inputs: {x: "f32[4, 256]"}
weights: {w: "f32[256]"}
outputs: {y: "f32[4, 256]"}
"""
INNER = f"""graph: inner
{HEAD}share: [p, q: {{apart: p}}]
body:
  - {NORM.format("x", "p: f32[4, 256]")}
  - {NORM.format("p", "q: f32[4, 256]")}
  - {NORM.format("q", "y")}
"""
PART = f"""graph: part
{HEAD}share:
  - m
  - pile: {{share: [n, o: n]}}
  - deep
body:
  - {NORM.format("x", "m: f32[4, 256]")}
  - {NORM.format("m", "n: f32[4, 256]")}
  - {{use: inner, id: deep, with: {{x: n, y: y}}}}
  - {NORM.format("y", "o: f32[4, 256]")}
  - {NORM.format("o", "y")}
"""
MAIN = f"""graph: main
{HEAD}share:
  - u
  - both:
      copies: {{t: 2}}
      share:
        - c
        - d
  - part
  - b: {{replaces: part, apart: [part.m, u, both.d, part.deep.p]}}
  - e: [b, both]
body:
  - alloc: {{u: "f32[4, 256]"}}
  - {{use: part, with: {{y: u}}}}
  - for: t
    range: 3
    body:
      - {NORM.format("u", "d: f32[4, 256]")}
      - {NORM.format("d", "c: f32[4, 256]")}
      - {NORM.format("c", "u")}
  - {NORM.format("u", "b: f32[4, 256]")}
  - {NORM.format("b", "f: f32[4, 256]")}
  - {NORM.format("f", "e: f32[4, 256]")}
  - {NORM.format("e", "y")}
"""
FILES = {"inner": INNER, "part": PART, "main": MAIN}


def space(folder: Path, main: str = MAIN, **others: str) -> Workspace:
    made = Workspace(folder=folder, settings=Settings(config=("tiny",)), folders=[folder])
    for name, text in ({**FILES, **others} | {"main": main}).items():
        made.put(str(folder / f"{name}.yaml"), text)
    return made


def changed(made: Workspace, path: Path, edits: dict[str, list[navigation.Edit]]) -> str:
    text = made.text(str(path))
    assert text is not None
    return navigation.applied(text.value, edits.get(str(path), []))


def hovered(made: Workspace, path: str, text: str, where: str) -> str:
    found = hover(made, path, at(text, where))
    assert found is not None, where
    return found[0]


def at(text: str, where: str, shift: int = 0) -> int:
    assert text.count(where) == 1, where
    return text.index(where) + len(where.rstrip("\n:")) - 1 + shift


def test_the_graphs_are_sound(tmp_path: Path) -> None:
    found = space(tmp_path)
    assert [found.findings(str(tmp_path / f"{name}.yaml")) for name in FILES] == [[], [], []]


@pytest.mark.parametrize(
    "where, file, made",
    [
        ("share:\n  - u", "main", 'u: "f32'),
        ("[b, both", "main", "both:"),
        ("replaces: part", "main", "part, with"),
        ("part.m", "part", "m: f32"),
        ("part.deep.p", "inner", "p: f32"),
        ("apart: [part", "main", "part, with"),
        ("part.deep", "part", "deep, with"),
        ("both.d", "main", "d: f32"),
        ("copies: {t", "main", "t\n    range"),
        ("e: [b", "main", "b: f32"),
    ],
)
def test_where_a_name_of_a_list_is_made(tmp_path: Path, where: str, file: str, made: str) -> None:
    text = MAIN
    (place,) = navigation.definition(space(tmp_path), str(tmp_path / "main.yaml"), at(text, where))
    assert Path(place.file).stem == file
    assert FILES[file].startswith(made, place.start), FILES[file][place.start :][:20]


LIFTED = MAIN.replace("  - e: [b, both]", "  - e: [b, both]\n  - part.n\n  - part.deep.q: {replaces: e, apart: part.n}")


@pytest.mark.parametrize(
    "where, file, made",
    [
        ("- part.n", "part", "n: f32"),
        ("- part.deep", "part", "deep, with"),
        ("part.deep.q", "inner", "q: f32"),
        ("apart: part.n", "part", "n: f32"),
    ],
)
def test_entries_of_used_graphs(tmp_path: Path, where: str, file: str, made: str) -> None:
    """They are found, follow names in the files where they are made, and say where they lie."""
    found = space(tmp_path, LIFTED)
    (place,) = navigation.definition(found, str(tmp_path / "main.yaml"), at(LIFTED, where))
    assert Path(place.file).stem == file
    assert FILES[file].startswith(made, place.start), FILES[file][place.start :][:20]
    edits = navigation.rename(found, place.file, place.start, "fresh")
    after = changed(found, tmp_path / "main.yaml", edits)
    name = where.rpartition(".")[2].rpartition(" ")[2]
    assert after == re.sub(
        rf"(part[.](?:deep[.])?){name}\b" if file == "inner" or name == "n" else r"(part[.])deep\b", r"\1fresh", LIFTED
    )
    for other in FILES:
        found.put(str(tmp_path / f"{other}.yaml"), changed(found, tmp_path / f"{other}.yaml", edits))
    assert found.findings(str(tmp_path / "main.yaml")) == []


@pytest.mark.parametrize(
    "typed, wanted, unwanted",
    [
        ("  - ", {"free", "part.m", "part.deep", "part.n"}, {"u", "b", "both", "part.pile"}),
        ("  - part.", {"m", "o", "deep"}, {"u", "pile"}),
        ("  - free: ", {"u", "part", "both", "e"}, {"free", "c", "x"}),
        ("  - free: [u, ", {"part", "both"}, {"free", "c", "op"}),
        ("  - free: {", {"replaces", "apart", "copies", "share"}, {"u"}),
        ("  - free: {replaces: ", {"u", "part"}, {"c", "free"}),
        ("  - free: {apart: [u, part.", {"m", "n", "deep"}, {"u", "p"}),
        ("  - free: {apart: part.deep.", {"p", "q"}, {"u", "m"}),
        ("  - free: {copies: {", {"t"}, {"u", "T"}),
        ("  - more: {share: [", {"free"}, {"u"}),
        ("  - more: {share: [free: ", set(), {"u", "free", "more"}),
        ("  - free:\n      ", {"replaces", "apart", "u"}, {"op"}),
    ],
)
def test_what_may_stand_in_a_list(tmp_path: Path, typed: str, wanted: set[str], unwanted: set[str]) -> None:
    start = MAIN.index("body:")
    text = f"{MAIN[:start]}{typed}\n{MAIN[start:]}  - alloc: {{free: f32[1]}}\n"
    offers, _ = complete(space(tmp_path, text), str(tmp_path / "main.yaml"), start + len(typed))
    found = {offer.text for offer in offers}
    assert wanted <= found and not found & unwanted, sorted(found)


def test_scratch_memory_in_lists(tmp_path: Path) -> None:
    """`ID.NAME` of an op that needs scratch memory is offered, and follows the id."""
    ops = tmp_path / "ops.py"
    ops.write_text(
        "from runner.base.tensor_spec import TensorSpec\nfrom runner.program.ops import OpRegistry\nops = OpRegistry()\n"
        '@ops.op("scaled", "x: f32[T] -> y: f32[T]", core="AIV", workspace=lambda call: {"room": TensorSpec("f32", (8,))})\n'
        'def scaled(x, *, y):\n    """Doubles."""\n    y.copy_(x)\n'
    )
    text = 'graph: g\ninputs: {x: "f32[4]"}\noutputs: {y: "f32[4]"}\nshare:\n  - h\nbody:\n'
    text += '  - {op: scaled, id: first, in: {x: x}, out: {y: "h: f32[4]"}}\n  - {op: scaled, in: {x: h}, out: {y: y}}\n'
    path = tmp_path / "g.yaml"
    made = Workspace(folder=tmp_path, settings=Settings(config=("tiny",), ops=(str(ops),)), folders=[tmp_path])
    made.put(str(path), text)
    start = text.index("body:")
    made.put(str(path), f"{text[:start]}  - \n{text[start:]}")
    made.put(str(path), text)
    offers, _ = complete(made, str(path), text.index("- h") + 2)
    assert {"first.room", "scaled.room"} <= {offer.text for offer in offers}
    made.put(str(path), text.replace("  - h\n", "  - h\n  - first.room\n"))
    edits = navigation.rename(made, str(path), at(text, "id: first") + len("  - first.room\n"), "begin")
    after = changed(made, path, edits)
    assert "- begin.room" in after and "id: begin" in after
    made.put(str(path), after)
    assert made.findings(str(path)) == []
    said = hover(made, str(path), after.index("begin.room") + len("begin."))
    assert said is not None and "share   begin.room" in said[0] and "of the arena" in said[0]


def test_what_hover_says_of_entries(tmp_path: Path) -> None:
    text = MAIN.replace(f"      - {NORM.format('c', 'u')}\n", "")  # so that trips wait for nothing but bytes
    made, path = space(tmp_path, text), str(tmp_path / "main.yaml")
    wheres = "  - u\n", "  - both", "  - part", "  - b:", "  - e", "part.m"
    said = {where.strip("\n:"): hovered(made, path, text, where) for where in wheres}
    assert "waits" not in said["  - u"] and "takes" not in said["  - u"]
    assert "t2." in said["  - both"] and "waits for" in said["  - both"], said["  - both"]
    assert "gives bytes to b" in said["  - part"]
    assert "takes bytes of o" in said["  - b"] and "gives bytes to e" in said["  - both"]
    assert "takes bytes of" in said["  - e"] and "share   m" in said["part.m"]
    program = made.program(path)
    assert not isinstance(program, RinggraphError)
    (arena,) = program.arenas
    for where, name in (("  - u", "u"), ("  - b", "b"), ("  - e", "e")):
        offset = next(o for t, o in zip(arena.tensors, arena.offsets, strict=True) if program.tensors[t].name == name)
        assert f"bytes {offset:,} to {offset + 4096:,} of the arena" in said[where]
    assert "entry" in hovered(made, path, text, "apart")
    (section,) = [part for part in outline(made, path) if part.name == "share"]
    assert [part.name for part in section.inside] == ["u", "both", "part", "b", "e"]
    assert [part.name for part in section.inside[1].inside] == ["c", "d"]


@pytest.mark.parametrize(
    "where, new", [("  - u", "part"), ("  - b:", "both"), ("  - c", "d"), ("  - both", "e"), ("  - u", "d"), ("  - both", "part")]
)
def test_names_that_lists_have_taken(tmp_path: Path, where: str, new: str) -> None:
    with pytest.raises(RinggraphError, match="taken"):
        navigation.rename(space(tmp_path), str(tmp_path / "main.yaml"), at(MAIN.partition("body")[0], where), new)


@pytest.mark.parametrize("seed", sampled(range(6), range(3)))
def test_renames_change_no_arena(tmp_path: Path, seed: int) -> None:
    """Whatever is renamed, in whatever file: the same arenas, or it is refused."""
    chance, done = random.Random(seed), 0
    for _ in range(8):
        made, name = space(tmp_path), chance.choice([*FILES])
        path = str(tmp_path / f"{name}.yaml")
        index = made.index(path)
        assert index is not None
        places = [each for each in index.occurrences if each.symbol.kind in navigation.RENAMED | {"shared"}]
        each = chance.choice([each for each in places if not each.symbol.is_implied])
        new = chance.choice(["fresh", *sorted({other.symbol.name for other in places})])
        try:
            edits = navigation.rename(made, path, each.start, new)
        except RinggraphError:
            continue
        texts = {other: changed(made, tmp_path / f"{other}.yaml", edits) for other in FILES}
        after = space(tmp_path, **texts)
        assert after.findings(str(tmp_path / "main.yaml")) == [], (each, new)
        assert shape(made, tmp_path) == shape(after, tmp_path), (each.symbol, new)
        done += 1
    assert done


def shape(made: Workspace, folder: Path):
    program = made.program(str(folder / "main.yaml"))
    assert not isinstance(program, RinggraphError)
    return [(arena.tensors, arena.offsets, arena.size_bytes) for arena in program.arenas], [task.waits for task in program.tasks]


NAMED = {
    "shared": "  - {}",
    "placed": "  - u2: {}",
    "replaces": "  - u2: {{replaces: {}",
    "apart": "  - u2: {{apart: {}",
    "in": "  - op: rms_norm\n    in: {{x: {}",
    "out": "  - op: rms_norm\n    out: {{y: {}",
    "of": "  - view: v\n    of: {}",
    "with": "  - use: part\n    with: {{x: {}",
    "carry": "  - for: k\n    carry: {{u: {}",
    "range": "  - for: k\n    range: {}",
    "if": "  - if: {}",
    "switch": "  - switch: {}",
}
"""Keys whose texts may name tensors, and a place for each."""
OTHERS = {"params", "after", "after_wait_only", "attrs", "max", "deploy", "device"}
"""Keys whose texts name no tensors."""


def test_all_keys_that_name_tensors_are_served(tmp_path: Path) -> None:
    """The schema's texts are names of tensors, or are known to be something else; a new key has to say which."""
    start = {True: MAIN.index("body:"), False: MAIN.index("body:") + len("body:\n")}
    for key, place in NAMED.items():
        begin, typed = start[key in ("shared", "placed", "replaces", "apart")], place.format("")
        text = f"{MAIN[:begin]}{typed}\n{MAIN[begin:]}  - alloc: {{free: f32[1]}}\n"
        offers, _ = complete(space(tmp_path, text), str(tmp_path / "main.yaml"), begin + len(typed))
        assert [offer for offer in offers if offer.kind == "tensor"], key
    rules = [rule for name, rule in schema()["definitions"].items() if name != "declaration"]
    texts = {name for rule in (schema(), *rules) for name, inner in rule.get("properties", {}).items() if _is_text(inner)}
    assert texts <= NAMED.keys() | OTHERS, texts - NAMED.keys() - OTHERS


def _is_text(rule) -> bool:
    """Whether something may be named in the values of a key."""
    parts = (rule, rule.get("items", {}), rule.get("additionalProperties", {}))
    kinds = [part.get("$ref", "").rpartition("/")[2] for part in parts]
    return "pattern" in rule or bool({"expression", "region", "names", "shared", "placed"}.intersection(kinds))


def test_what_hover_says_of_entries_of_used_graphs(tmp_path: Path) -> None:
    """An entry that stands for one of a used graph's list is told as it lies here, with copies and ring."""
    entries = "  - part.n: {copies: 2}\n  - r: {ring: 3, share: [part.o, part.deep.q]}\n"
    text = MAIN.replace("  - part\n", f"  - part\n{entries}")
    made, path = space(tmp_path, text), str(tmp_path / "main.yaml")
    assert made.findings(path) == []
    said = hovered(made, path, text, "  - part.n")
    assert "share   part.n\n" in said and "2 copies, of all trips, side by side" in said and "of the arena" in said
    said = hovered(made, path, text, "[part.o")
    assert "share   part.o\n" in said and "passes through the ring 'r', as large as 3 of its largest tensors" in said
    assert "  a ring, as large as 3 of" in hovered(made, path, text, "  - r")
    said = hovered(made, path, text, "        - d\n")
    assert "2 copies of 'both', of trips of t, side by side" in said
    said = hovered(made, str(tmp_path / "part.yaml"), PART, "pile")  # the used graph's own, in its own file
    assert "share   pile" in said and "copies" not in said
