"""What holds between documents, versions and settings of one session."""

import os
import statistics
import time
from pathlib import Path

import pytest
from editor_client import Editor, position
from lsprotocol import types

from runner.language.library import shipped_graphs

GRAPH = """graph: g
inputs: {x: "{act}[T, D]"}
weights: {w: {type: "{wd}[D]", from: "w"}}
outputs: {y: "{act}[T, D]"}
body:
  - op: rms_norm
    in: {x: x, w: w}
    out: {y: y}
"""
USER = 'graph: user\ninputs: {x: "{act}[T, D]"}\noutputs: {y: "{act}[T, D]"}\nbody:\n  - use: g\n'


@pytest.fixture
def editor(tmp_path):
    folder = tmp_path / "a folder, 50 % é"
    folder.mkdir()
    session = Editor(folder)
    session.folder = folder
    yield session
    assert session.faults == []
    assert session.end() == 0, session.said


def codes(session, uri):
    return [str(each.code) for each in session.findings(uri)]


def test_documents_settings_and_versions(editor):
    user, graph = editor.open(editor.folder / "user.yaml", USER), None
    assert codes(editor, user) == ["G311"]
    graph = editor.open(editor.folder / "g.yaml", GRAPH)  # never saved, and used
    editor.until(lambda: editor.found[user].diagnostics == [] or not editor.found[user].diagnostics)
    assert codes(editor, graph) == []
    bad = GRAPH.replace("op: rms_norm", "op: rms_nrom")
    for text in (GRAPH.replace("x: x", "x: z"), GRAPH + "#", GRAPH + "# one", bad.replace("\n", "\r\n")):
        editor.change(graph, text)  # nobody waits for the first three
    (found,) = editor.findings(graph)
    assert (found.code, found.range.start, found.range.end) == ("G302", types.Position(5, 8), types.Position(5, 16))
    everything = types.Range(types.Position(0, 0), types.Position(99, 0))
    document = types.TextDocumentIdentifier(graph)
    (action,) = editor.ask(
        types.TEXT_DOCUMENT_CODE_ACTION, text_document=document, range=everything, context=types.CodeActionContext([found])
    )
    (edit,) = action.edit.changes[graph]
    assert (edit.new_text, edit.range) == ("rms_norm", found.range) and action.is_preferred
    editor.change(graph, GRAPH)
    assert codes(editor, graph) == []
    (made,) = editor.at(types.TEXT_DOCUMENT_DEFINITION, user, *position(USER, USER.index("use: g") + 5))
    assert (made.uri, made.range.start) == (graph, types.Position(0, 7))
    places = editor.at(
        types.TEXT_DOCUMENT_REFERENCES, graph, *position(GRAPH, GRAPH.index('x: "{act}')), context=types.ReferenceContext(True)
    )
    assert sorted((Path(each.uri).name, each.range.start.line) for each in places) == [
        ("g.yaml", 1),
        ("g.yaml", 6),
        ("user.yaml", 4),
    ]

    def hints():
        found = editor.ask(types.TEXT_DOCUMENT_INLAY_HINT, text_document=document, range=everything)
        return [hint.label for hint in found]

    assert hints()[0] == "f32[8, 64], 2.0 KiB"
    editor.client.workspace_did_change_configuration(
        types.DidChangeConfigurationParams({"ringgraph": {"config": "flash", "deploy": "prefill"}})
    )
    assert hints()[0] == "bf16[128, 4096], 1.0 MiB"
    editor.client.workspace_did_change_configuration(types.DidChangeConfigurationParams({"ringgraph": {"config": "nowhere"}}))
    editor.change(graph, GRAPH)
    assert codes(editor, graph) == ["C100"] and hints() == []
    editor.close(graph)
    editor.until(lambda: not editor.found[graph].diagnostics)


def test_what_is_no_graph_is_left_alone(editor):
    workflow = editor.open(editor.folder / "ci.yaml", "on: push\njobs: {a: {steps: [b\n")
    assert editor.findings(workflow) == []
    assert editor.at(types.TEXT_DOCUMENT_HOVER, workflow, 0, 1) is None
    layer = editor.open(editor.folder / "mine.yaml", "model: deepseek_v4\nhiden_size: 3\n")
    assert "C101" in codes(editor, layer)
    empty = editor.open(editor.folder / "new.yaml", "")
    labels = [offer.label for offer in editor.at(types.TEXT_DOCUMENT_COMPLETION, empty, 0, 0).items]
    assert labels[:2] == ["graph", "doc"]
    editor.change(empty, "graph: n\nbody:\n  - ")
    labels = [offer.label for offer in editor.at(types.TEXT_DOCUMENT_COMPLETION, empty, 2, 4).items]
    assert labels[0] == "op"


def processor_seconds(session) -> float:
    """What the server has used so far."""
    fields = Path(f"/proc/{session.client._server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.bench
def test_warm_answers(tmp_path):
    """From an edit of one line to its findings, over all shipped graphs under their own small configurations."""
    session, rounds = Editor(tmp_path), 6
    every, used = [], []
    for name, path in sorted(shipped_graphs().items()):
        text = path.read_text(encoding="utf-8")
        uri = session.open(path)
        session.findings(uri)
        time.sleep(0.5)
        before = processor_seconds(session)
        for number in range(rounds):
            session.change(uri, f"{text}# {number}\n")
            session.findings(uri)
        used.append((processor_seconds(session) - before) / rounds)
        times = session.times.pop("diagnostics")[1:]
        every += times
        session.close(uri)
        median, worst = 1000 * statistics.median(times), 1000 * max(times)
        print(f"{name:26} median {median:5.0f} ms, worst {worst:5.0f} ms, processor {1000 * used[-1]:5.0f} ms")
    for what, found in (("wall", every), ("processor", used)):
        worst = statistics.quantiles(found, n=20)[-1]
        print(f"all, {what}: median {1000 * statistics.median(found):.0f} ms, 95 % {1000 * worst:.0f} ms")
    assert session.end() == 0
    assert statistics.median(used) < 0.2
