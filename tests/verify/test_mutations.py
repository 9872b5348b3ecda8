"""Shipped graphs with something broken in them: a located finding or a clean pass, never a traceback."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest
from sampled import sampled

from ops import register_all
from runner.base.errors import Diagnostic
from runner.config.config import Config, load_config
from runner.expansion.expander import expand_all
from runner.language.library import GraphLibrary, check_source, load_graph, shipped_graphs
from runner.lint.lint import lint_graph
from runner.program.ops import OpRegistry

NUM_MUTATIONS = 2000
NUM_GROUPS = 16
REGISTRY = OpRegistry()
register_all(REGISTRY)
SMALL = ["num_hidden_layers=3", "compress_ratios=[0,4,128]", "n_routed_experts=4", "decode.batch=2", "prefill.seq=16"]
SETS = {"tiny": SMALL, "qwen3-tiny": ["num_hidden_layers=2", "decode.batch=2", "prefill.seq=16"]}
CONFIGS = {
    (preset, deploy): load_config([preset], sets=sets, deploy=deploy)
    for preset, sets in SETS.items()
    for deploy in ("decode", "prefill")
}
TEXTS = {name: path.read_text() for name, path in shipped_graphs().items()}
WORD = re.compile(r"[A-Za-z_]\w*")
NUMBER = re.compile(r"\b\d+\b")


def delete_line(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return "".join(lines)


def delete_key(text: str, rng: random.Random) -> str:
    found = rng.choice(list(re.finditer(r"\w+: ", text)))
    return text[: found.start()] + text[found.end() :]


def delete_entry(text: str, rng: random.Random) -> str:
    found = rng.choice(list(re.finditer(r'\w+: ("[^"]*"|\w+),? ?', text)))
    return text[: found.start()] + text[found.end() :]


def swap_words(text: str, rng: random.Random) -> str:
    one, two = sorted(rng.sample(list(WORD.finditer(text)), 2), key=lambda match: match.start())
    return text[: one.start()] + two[0] + text[one.end() : two.start()] + one[0] + text[two.end() :]


def misspell(text: str, rng: random.Random) -> str:
    word = rng.choice([match for match in WORD.finditer(text) if len(match[0]) > 2])
    at = rng.randrange(word.start(), word.end())
    return text[:at] + rng.choice("qxz_") + text[at + 1 :]


def wrong_dims(text: str, rng: random.Random) -> str:
    found = rng.choice(list(re.finditer(r"\[[^\[\]\n]*\]", text)))
    dims = [dim.strip() for dim in found[0][1:-1].split(",")]
    change = rng.randrange(4)
    if change == 0:
        dims.append(rng.choice(["7", "D", "0", "T / 3"]))
    elif change == 1:
        dims.pop()
    elif change == 2:
        rng.shuffle(dims)
    else:
        dims[rng.randrange(len(dims))] = rng.choice(["-1", "D + 1", "10**9", "x", "1e3", "10000000000", "a:b", "''", ""])
    return text[: found.start()] + f"[{', '.join(dims)}]" + text[found.end() :]


def wrong_dtype(text: str, rng: random.Random) -> str:
    found = rng.choice(list(re.finditer(r"(\{\w+\}|f32|i32|i64)(?=\[)", text)))
    return text[: found.start()] + rng.choice(["f16", "f23", "{wq}", "{nothing}", "bool", ""]) + text[found.end() :]


def wrong_number(text: str, rng: random.Random) -> str:
    found = list(NUMBER.finditer(text))
    if not found:
        return delete_line(text, rng)
    at = rng.choice(found)
    return text[: at.start()] + rng.choice(["-1", "0", "3", "999999", "0x10", "1e-6", "no", "[]", "{}", "~"]) + text[at.end() :]


def wrong_value(text: str, rng: random.Random) -> str:
    found = rng.choice(list(re.finditer(r'(?<=: )("[^"\n]*"|[\w.-]+)', text)))
    value = rng.choice(
        ["[]", "{}", "on", "12", "null", "[1, 2]", "{a: b}", '"x[1"', '"{}"', "!!str x", "*nothing", "&a b", '"a b"', '"\\0"']
    )
    return text[: found.start()] + value + text[found.end() :]


def truncate(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(len(text))]


def indent(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    lines[at] = rng.choice([" ", "  ", "\t"]) + lines[at] if rng.random() < 0.5 else lines[at].lstrip(" ")
    return "".join(lines)


def insert_character(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text))
    return text[:at] + rng.choice("[]{}:,-#&*!|>'\"%@`\t\0\n é") + text[at:]


def repeat_lines(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    return "".join(lines[: at + rng.randrange(1, 6)] + lines[at:])


def move_lines(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    taken = lines[at : at + rng.randrange(1, 6)]
    del lines[at : at + len(taken)]
    to = rng.randrange(len(lines) + 1)
    return "".join(lines[:to] + taken + lines[to:])


MUTATIONS = (
    delete_line,
    delete_key,
    delete_entry,
    swap_words,
    misspell,
    wrong_dims,
    wrong_dtype,
    wrong_number,
    wrong_value,
    truncate,
    indent,
    insert_character,
    repeat_lines,
    move_lines,
)


ORIGINALS = {name: load_graph(path) for name, path in shipped_graphs().items()}


@pytest.fixture
def library() -> GraphLibrary:
    """All shipped graphs, parsed once."""
    loaded = GraphLibrary()
    for graph in ORIGINALS.values():
        loaded.add(graph)
    return loaded


def config_of(name: str) -> Config:
    """A small configuration of the family that a shipped graph is of, in the graph's deployment."""
    return CONFIGS["qwen3-tiny" if name.startswith("qwen3") else "tiny", "prefill" if "prefill" in name else "decode"]


def check(name: str, text: str, library: GraphLibrary) -> list[Diagnostic]:
    """All findings in a graph's text, used as the file of that name would be."""
    file = str(shipped_graphs()[name])
    graph, problems = check_source(text.encode(), file)
    if graph is None:
        return problems
    return lint_graph(graph, config_of(name), REGISTRY, library)


def assert_located(found: list[Diagnostic], text: str, name: str) -> None:
    lines = text.splitlines() or [""]
    for finding in found:
        assert finding.message and finding.code.startswith("G")
        assert finding.mark is not None
        if Path(finding.mark.file).stem == name:
            assert 1 <= finding.mark.line <= len(lines) + 1
            assert finding.mark.column >= 1


@pytest.mark.parametrize("group", sampled(range(NUM_GROUPS), (0, 6)))
def test_mutated_graphs_give_located_findings_or_pass(group, library):
    rng = random.Random(group)
    outcomes: Counter[str] = Counter()
    for _ in range(NUM_MUTATIONS // NUM_GROUPS):
        name = rng.choice(sorted(TEXTS))
        mutate = rng.choice(MUTATIONS)
        text = mutate(TEXTS[name], rng)
        try:
            found = check(name, text, library)
        except Exception as error:
            raise AssertionError(f"{mutate.__name__} of {name} made lint fail:\n{text}") from error
        finally:
            library.add(ORIGINALS[name])
        assert_located(found, text, name)
        errors = [finding for finding in found if finding.severity == "error"]
        outcomes[errors[0].code[:2] if errors else "clean"] += 1
    assert all(outcomes[stage] for stage in ("G1", "G2", "G3", "clean")), outcomes


def test_the_originals_expand(library):
    for name in TEXTS:
        assert expand_all(ORIGINALS[name], config_of(name), REGISTRY, library=library).problems == []
