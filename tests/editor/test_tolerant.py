"""The tolerant reader gives the nodes of the strict one where a file is right, and some nodes, soon, for anything else."""

import random
import time
from functools import partial
from pathlib import Path

import pytest
from editor_edits import mutated
from places import ROOT

from runner.editor.reading import tolerant
from runner.editor.reading.names import index, interface
from runner.editor.reading.text import Text
from runner.language.library import shipped_graphs
from runner.language.yaml_source import read_source

FILES = [
    *shipped_graphs().values(),
    *sorted((ROOT / "graphs/config").glob("*.yaml")),
    *sorted((ROOT / "tests/lint/cases").glob("*.yaml")),
]


def _itself(root, name, user):
    return interface(root, "/g.yaml")


def flat(node, path=()):
    """Kind, place and text of every node."""
    yield path, node.kind, node.mark, node.value if node.kind == "text" else len(node.value)
    for number, child in enumerate(node.value if node.kind != "text" else ()):
        for part, each in enumerate(child if node.kind == "map" else (child,)):
            yield from flat(each, (*path, number, part))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_right_files_have_the_same_nodes(path: Path):
    found = read_source(path.read_bytes(), str(path), 100)
    if found.root is None or found.problems or found.root.kind != "map":
        pytest.skip("not sound YAML of a graph")
    assert list(flat(tolerant.read(list(found.lines), str(path)))) == list(flat(found.root))


def test_edited_files_that_are_right_have_the_same_nodes():
    chance, num_right, num_off = random.Random(5), 0, 0
    for _ in range(250):
        path = chance.choice(FILES)
        text = mutated(path.read_text(encoding="utf-8"), chance)
        found = read_source(text.encode(), "f.yaml", 100)
        started = time.process_time()
        root = tolerant.read(list(found.lines), "f.yaml")
        index(root, Text("f.yaml", text), "/f.yaml", (), partial(_itself, root))
        assert time.process_time() - started < 1
        if found.root is None or found.problems or found.root.kind != "map":
            continue
        num_right += 1
        strict = [each for each in flat(found.root) if each[3] and "\n" not in str(each[3])]
        near = {(kind, mark) for _, kind, mark, _ in flat(root)}
        missing = [each for each in strict if (each[1], each[2]) not in near]
        num_off += len(missing) > 0.02 * len(strict)
    assert num_right > 50, "edits leave too few files right"
    assert num_off <= 0.02 * num_right  # a quoted text over several lines, the last of which begins too far to the left


def test_places_survive_both_ways():
    text = Text("f", "a: \U0001f600x\r\nb: \u2028y\x0cz\rc: é\n")
    for offset in range(len(text.value)):
        assert text.offset(text.mark(offset)) == offset or text.value[offset] in "\r\n\u2028"
        assert text.offset_at(*text.position(offset)) == offset or text.value[offset] in "\r\n"
    assert text.position(text.value.index("x")) == (0, 5)
    assert Text("f", text.value, "utf-8").position(text.value.index("x")) == (0, 7)
