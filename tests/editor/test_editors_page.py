"""docs/editors.md: its examples run, its files parse, its settings are those that the server takes."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from editor_client import Editor, position
from lsprotocol import types
from places import DOCS, ROOT

from runner.editor.settings import read_settings

PAGE = (DOCS / "editors.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, language
    return found[1]


def test_the_example_prints_what_it_says():
    command, _, expected = block("console").removeprefix("$ ").partition("\n")
    code = "import sys; from runner.cli.main import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split()[1:]], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(re.escape(expected.strip()).replace(r"\.\.\.", ".*"), done.stdout.strip(), re.DOTALL), done.stdout


def test_settings_are_those_that_there_are():
    listed = re.findall(r"^\| `ringgraph\.(\w+)`", PAGE, re.MULTILINE)
    assert read_settings(dict.fromkeys(set(listed) - {"files"}))[1] == [] and len(listed) == 7
    extension = json.loads(block("json"))
    offered = {name.removeprefix("ringgraph.") for name in extension["contributes"]["configuration"]["properties"]}
    assert offered == {"command", *listed}
    handed_on = re.search(r"Object\.fromEntries\((\[.*?\])", block("js"), re.DOTALL)
    assert handed_on is not None and set(json.loads(handed_on[1])) == set(listed)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is missing")
def test_the_extension_is_javascript(tmp_path):
    path = tmp_path / "extension.js"
    path.write_text(block("js"), encoding="utf-8")
    assert subprocess.run(["node", "--check", path], timeout=60).returncode == 0


def test_a_server_needs_no_torch_and_takes_settings(tmp_path):
    """A session in a process whose torch raises, with `act` of another configuration."""
    (tmp_path / "torch.py").write_text("raise ImportError('torch is broken here')\n", encoding="utf-8")
    path = tmp_path / "g.yaml"
    text = 'graph: g\nbody:\n  - alloc: {a: "{act}[T, D]"}  # ringgraph: ignore[G314]\n'
    session = Editor(tmp_path, {"config": "flash", "ep": 8}, broken_torch=tmp_path)
    uri = session.open(path, text)
    assert session.findings(uri) == []
    said = session.at(types.TEXT_DOCUMENT_HOVER, uri, *position(text, text.index("{act}") + 1))
    assert "bf16" in said.contents.value and "flash" in said.contents.value
    assert session.at(types.TEXT_DOCUMENT_HOVER, uri, 0, 0) is not None
    assert session.faults == [] and session.end() == 0
