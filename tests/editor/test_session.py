"""Sessions of a real client with `ringgraph lsp`: answers agree with `lint` and `explain`, and nothing raises."""

from __future__ import annotations

import random
import shutil
import statistics
from pathlib import Path

import pytest
from editor_client import Editor, position
from editor_edits import mutated
from lsprotocol import types
from places import ROOT

from runner.base.errors import ConfigError
from runner.driver.face import Driver
from runner.editor.reading import nodes, tolerant
from runner.language.library import shipped_graphs

NAMES = sorted(shipped_graphs())
QUICK = ("moe", "qwen3_decode", "attention_decode_csa")
SETTINGS = {"files": {"*qwen3*": {"config": "qwen3-tiny"}}}


def driver(name: str) -> Driver:
    return Driver("qwen3-tiny" if "qwen3" in name else ())


@pytest.fixture
def folders(tmp_path):
    """Two copies of the shipped graphs: one that the editor has open and never saves, one for the commands to read."""
    for name in ("open", "saved"):
        shutil.copytree(ROOT / "graphs", tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "open", tmp_path / "saved"


@pytest.fixture
def editor(folders):
    session = Editor(folders[0], SETTINGS)
    yield session
    told(session)
    assert session.faults == []
    assert session.end() == 0, session.said


def told(session: Editor) -> None:
    for method, times in sorted(session.times.items()):
        worst = statistics.quantiles(times, n=20)[-1] if len(times) > 1 else times[0]
        print(
            f"{method:18} {len(times):5} answers, median {1000 * statistics.median(times):6.0f} ms, 95 % {1000 * worst:6.0f} ms"
        )


def place(folder: Path, name: str) -> Path:
    return folder / shipped_graphs()[name].relative_to(ROOT / "graphs")


def linted(name: str, folders: tuple[Path, Path], text: str) -> list[tuple]:
    """What `lint` says of a text, as findings of the open copy: line, column (from 0, in UTF-16), code, message with its hint."""
    path = place(folders[1], name)
    before = path.read_bytes()
    path.write_text(text, encoding="utf-8", newline="")
    try:
        found = driver(name).lint(path)
    except ConfigError as error:
        return [("refused", str(error))]
    finally:
        path.write_bytes(before)
    result = []
    for each in found:
        assert each.mark is not None
        message = (f"{each.message}\nhint: {each.hint}" if each.hint else each.message).replace(str(folders[1]), str(folders[0]))
        if Path(each.mark.file).resolve() == path.resolve():
            result.append((each.mark.line, each.code, each.severity, message))
    return sorted(result)


def shown(session: Editor, uri: str) -> list[tuple]:
    """What the editor shows, in the same form; lines as YAML counts them."""
    return sorted(
        (each.range.start.line + 1, str(each.code), each.severity.name.lower(), each.message) for each in session.findings(uri)
    )


def explained(name: str, path: Path, text: str, item: nodes.Node) -> str | None:
    """What `explain` says of the first task that an item makes."""
    program = driver(name).expand(path)
    for task in program.tasks:
        at = task.mark
        if at is not None and Path(at.file) == path and (at.line, at.column) == (item.mark.line, item.mark.column):
            return str(driver(name).explain(path, task.path))
    return None


def visit(session: Editor, name: str, folder: Path, most: int) -> int:
    """Goes through a graph: asks of its items and names what an editor asks; the number of requests."""
    path = place(folder, name)
    text = path.read_text(encoding="utf-8")
    uri = session.open(path)
    assert shown(session, uri) == linted(name, (folder, folder.parent / "saved"), text) == []
    root = tolerant.read(text.split("\n"), str(path))
    asked = 1
    ops = [item for item in nodes.all_items(root.get("body")) if item.get("op") is not None]
    for item in ops[:: max(1, len(ops) // most)]:
        head = item.get("op")
        assert head is not None
        where = position(text, sum(len(line) + 1 for line in text.split("\n")[: head.mark.line - 1]) + head.mark.column)
        said = session.at(types.TEXT_DOCUMENT_HOVER, uri, *where)
        wanted = explained(name, path, text, item)
        assert wanted is None or f"```text\n{wanted}\n```" in said.contents.value
        (made,) = session.at(types.TEXT_DOCUMENT_DEFINITION, uri, *where)
        assert made.uri.endswith(".py")
        line = Path(made.uri.removeprefix("file://")).read_text(encoding="utf-8").split("\n")[made.range.start.line]
        assert line[made.range.start.character : made.range.end.character] == head.value
        offers = session.at(types.TEXT_DOCUMENT_COMPLETION, uri, *where).items
        assert head.value in [offer.label for offer in offers]
        asked += 3
    document = types.TextDocumentIdentifier(uri)
    whole = types.Range(types.Position(0, 0), types.Position(text.count("\n") + 1, 0))
    assert session.ask(types.TEXT_DOCUMENT_DOCUMENT_SYMBOL, text_document=document)
    assert session.ask(types.TEXT_DOCUMENT_INLAY_HINT, text_document=document, range=whole)
    none = types.CodeActionContext([])
    assert not session.ask(types.TEXT_DOCUMENT_CODE_ACTION, text_document=document, range=whole, context=none)
    section = next(found for name in ("inputs", "params") if (found := root.get(name)) is not None)
    key = section.value[0][0]
    where = key.mark.line - 1, key.mark.column
    found = session.at(types.TEXT_DOCUMENT_REFERENCES, uri, *where, context=types.ReferenceContext(True))
    assert (uri, key.mark.line - 1) in [(each.uri, each.range.start.line) for each in found]
    assert session.at(types.TEXT_DOCUMENT_PREPARE_RENAME, uri, *where)
    renamed = session.at(types.TEXT_DOCUMENT_RENAME, uri, *where, new_name="renamed_by_test").changes
    assert {each.uri for each in found} == set(renamed)
    session.close(uri)
    return asked + 7


def edits(session: Editor, names: tuple[str, ...] | list[str], folders: tuple[Path, Path], number: int, seed: int) -> None:
    """Random edits, one on another or on the shipped text: findings are those of `lint`, and every request has an answer."""
    chance = random.Random(seed)
    texts = {name: place(folders[0], name).read_text(encoding="utf-8") for name in names}
    uris = {name: session.open(place(folders[0], name)) for name in names}
    now = dict(texts)
    for _ in range(number):
        name = chance.choice(names)
        uri = uris[name]
        for other in names:  # `lint` reads all but one as they are shipped
            if other != name and now[other] != texts[other]:
                now[other] = texts[other]
                session.change(uris[other], texts[other])
                session.findings(uris[other])
        now[name] = mutated(now[name] if chance.random() < 0.4 else texts[name], chance)
        session.change(uri, now[name])
        line = chance.randrange(now[name].count("\n") + 1)
        column = chance.randrange(len(now[name].split("\n")[line]) + 2)
        for method in (types.TEXT_DOCUMENT_HOVER, types.TEXT_DOCUMENT_COMPLETION, types.TEXT_DOCUMENT_DEFINITION):
            session.at(method, uri, line, column)
        document = types.TextDocumentIdentifier(uri)
        whole = types.Range(types.Position(0, 0), types.Position(10_000, 0))
        session.ask(types.TEXT_DOCUMENT_DOCUMENT_SYMBOL, text_document=document)
        session.ask(types.TEXT_DOCUMENT_INLAY_HINT, text_document=document, range=whole)
        if chance.random() < 0.3:
            session.at(types.TEXT_DOCUMENT_REFERENCES, uri, line, column, context=types.ReferenceContext(True))
        got = shown(session, uri)
        session.ask(types.TEXT_DOCUMENT_CODE_ACTION, text_document=document, range=whole, context=types.CodeActionContext([]))
        wanted = linted(name, folders, now[name])
        assert set(wanted) <= set(got) or wanted[:1] == [("refused",)], (name, now[name])


def test_a_session(editor, folders):
    assert sum(visit(editor, name, folders[0], 3) for name in QUICK) >= 40


def test_edits(editor, folders):
    edits(editor, QUICK[:2], folders, 12, 3)


@pytest.mark.slow
def test_a_session_with_every_shipped_graph(editor, folders):
    asked = sum(visit(editor, name, folders[0], 6) for name in NAMES)
    print(f"{asked} requests over {len(NAMES)} graphs")
    assert asked >= 60


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_500_edits(editor, folders, seed):
    """A hundred for each seed, each with a fifth of the graphs."""
    edits(editor, NAMES[seed::5], folders, 100, seed)
