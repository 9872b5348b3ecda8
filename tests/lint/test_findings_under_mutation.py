"""Mutated shipped graphs: whatever is wrong is told at a place within a file, once, the same whatever path leads to the file."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from ops import register_all
from runner.base.errors import Diagnostic, RinggraphError
from runner.config.config import load_config
from runner.expansion.expander import expand
from runner.language.library import GraphLibrary, load_graph, shipped_graphs
from runner.lint.ignores import ACCEPTABLE
from runner.lint.lint import lint
from runner.program.ops import OpRegistry

REGISTRY = OpRegistry()
register_all(REGISTRY)
TINY = load_config(["tiny"], deploy="decode")
SMALL = ("moe", "head", "expert_group", "o_proj_decode", "qkv_proj_rope", "attention_decode_swa", "sparse_attn_prefill")
JUNK = (
    "nowhere",
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
    ": ",
    "# ",
    "&a ",
    "*a",
    "\t",
    "\u2028",
    "\x0c",
    "\n",
    "  ",
    "- ",
    "é",
    "0x1",
    "ignore",
)
TAIL = "  # ringgraph: ignore[G306, G312, G314, G399]"


def mutated(text: str, rng: random.Random) -> str:
    """The text with up to three small changes."""
    for _ in range(rng.randint(1, 3)):
        lines = text.split("\n")
        number = rng.randrange(len(lines))
        at = rng.randrange(len(lines[number]) + 1)
        match rng.randrange(6):
            case 0:
                del lines[number]
            case 1:
                lines.insert(number, lines[rng.randrange(len(lines))])
            case 2:
                lines[number] = lines[number][:at] + rng.choice(JUNK) + lines[number][at:]
            case 3:
                words = lines[number].split(" ")
                words[rng.randrange(len(words))] = rng.choice(text.split())
                lines[number] = " ".join(words)
            case 4:
                lines[number] += TAIL
            case 5:
                lines[number] = lines[number][:at] + lines[number][at + 1 :]
        text = "\n".join(lines)
    return text


def counts(findings: list[Diagnostic]) -> Counter[tuple[str, str, int, int]]:
    """How often each code stands at each place, whatever the file is called there."""
    found = [(finding.code, finding.mark) for finding in findings]
    assert all(mark is not None for _, mark in found)
    return Counter((code, os.path.realpath(mark.file), mark.line, mark.column) for code, mark in found if mark is not None)


def check_places(findings: list[Diagnostic]) -> None:
    for finding in findings:
        for mark in (finding.mark, *finding.related):
            assert mark is not None
            data = Path(mark.file).read_bytes().decode("utf-8", errors="replace").removeprefix("\ufeff")
            lines = data.replace("\r\n", "\n").replace("\u2028", "\n").replace("\r", "\n").replace("\x85", "\n").split("\n")
            assert 1 <= mark.line <= len(lines), finding
            assert 1 <= mark.column <= len(lines[mark.line - 1]) + 1, finding
            if mark is finding.mark and finding.source_line is not None:
                assert finding.source_line == lines[mark.line - 1]


def check_once(findings: list[Diagnostic]) -> None:
    """The same words at the same place are the same finding."""
    words = Counter((finding.code, finding.mark, finding.message, finding.related) for finding in findings)
    assert max(words.values(), default=1) == 1


def check_against_expansion(path: Path, findings: list[Diagnostic]) -> None:
    """A graph without findings that nobody can accept is one that commands take, and no other is."""
    try:
        library = GraphLibrary()
        expand(load_graph(path), TINY, REGISTRY, library=library)
    except RinggraphError as error:
        assert {finding.code for finding in findings} & {problem.code for problem in error.diagnostics}
    else:
        assert {finding.code for finding in findings} <= ACCEPTABLE


def campaign(folder: Path, rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    for path in shipped_graphs().values():
        shutil.copy(path, folder)
    for number in range(rounds):
        name = rng.choice(SMALL)
        target = folder / f"{name}.yaml"
        whole = target.read_text()
        target.write_text(mutated(whole, rng), newline="")
        (folder / "sub").mkdir(exist_ok=True)
        link = folder / "sub" / f"{number}.yaml"
        link.symlink_to(target)
        spellings = [f"{name}.yaml", f"./{name}.yaml", str(target), f"sub/../{name}.yaml"]
        first = lint([spellings[0]], TINY, REGISTRY)
        check_places(first)
        check_once(first)
        check_against_expansion(target, first)
        other = rng.choice(spellings[1:])
        assert counts(lint([other], TINY, REGISTRY)) == counts(first)
        assert counts(lint([*spellings, str(link)], TINY, REGISTRY)) == counts(first)
        link.unlink()
        target.write_text(whole)


def test_findings_of_mutated_graphs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    campaign(tmp_path, rounds=12, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_findings_of_many_mutated_graphs(tmp_path, monkeypatch, seed):
    monkeypatch.chdir(tmp_path)
    campaign(tmp_path, rounds=150, seed=seed)
