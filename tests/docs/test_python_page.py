"""docs/python.md runs from top to bottom and prints what it shows; `import runner` imports nothing."""

import ast
import contextlib
import io
import json
import re
import subprocess
import sys

import pytest
from places import DOCS, ROOT

import runner


def _blocks():
    """Each block of code with the output that the page shows below it."""
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_page_prints_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = _blocks()
    assert len(blocks) == (DOCS / "python.md").read_text().count("```python") >= 9
    names = {}
    for code, expected in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        pattern = re.escape(expected).replace(r"\.\.\.", ".*?")
        assert re.fullmatch(pattern, printed.getvalue(), re.DOTALL), f"{code}\n{printed.getvalue()}"


def test_importing_it_imports_nothing():
    code = "import sys, runner; print([name for name in sys.modules if name.startswith(('runner.', 'torch', 'numpy', 'yaml'))])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("name", runner._MODULES)
def test_every_name_is_there_and_has_a_docstring(name):
    assert getattr(runner, name).__doc__


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ROOT / "runner" / "__init__.py").read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(block.body)
    assert {name.name: node.module for node in imports for name in node.names} == runner._MODULES
    assert not any(name.asname for node in imports for name in node.names)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'runner' has no attribute 'Drive'"):
        runner.Drive  # noqa: B018
    with pytest.raises(ImportError):
        exec("from runner import Drive", {})


def test_generate_makes_the_tokens_of_the_command(tmp_path, call):
    folder = tmp_path / "model"
    sets = ["num_hidden_layers=3"]
    assert call("checkpoint", "init", folder, "--config", "tiny", "--set", *sets)[0] == 0
    made = runner.Driver().generate(folder, [[1, 2, 3], [7]], 3, ignore_eos=True, ring_heap="safe")
    _, out, _ = call("generate", "--checkpoint", folder, *ids("1,2,3", "7"), "--max-new-tokens", "3", "--ignore-eos", "--json")
    assert made.as_json()["tokens"] == json.loads(out)["tokens"]
    assert len(made.figures["ring_heap_bytes"]) == 4
    with pytest.raises(runner.ConfigError, match="2 ranks are processes of their own"):
        runner.Driver(ep=2).generate(folder, [[1]])


def ids(*prompts):
    return [word for prompt in prompts for word in ("--prompt-ids", prompt)]
