"""What plans never imports torch, and works where torch is broken: commands in a process whose torch raises."""

import json
import os
import subprocess
import sys
from importlib import import_module

import pytest
from places import ROOT

from runner.cli.results import imports

RUN = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from runner.cli import main

main.end = lambda status: sys.exit(status)
ended = []
for arguments in json.loads(sys.argv[1]):
    sys.argv[:] = ["ringgraph", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main.main(arguments)
        except SystemExit as end:
            status = end.code or 0
    assert "torch" not in sys.modules, f"{arguments} imported torch"
    ended.append((status, out.getvalue(), err.getvalue()))
print(json.dumps(ended))
"""
"""Runs commands one after the other, and tells how each of them ended: a torch that raises, raises whenever it is imported."""

CONFORMANCE = "tests/data/conformance/01_flat_alignment.json"
CAPTURE = "tests/data/captures/layers_1"

PULSES = ("docs/examples/pulses/pulses.yaml", "--config", "docs/examples/pulses/layer.yaml")
PULSES += ("--ops", "docs/examples/pulses/pulses_ops.py")

COMMANDS = [
    ("--help",),
    ("lint", "moe"),
    ("explain", "moe", "gate"),
    ("dot", "moe", "-o", "{out}/moe.dot"),
    ("schedule", "head", "--scheduler", "minpeak"),
    ("schedule", "moe", "--cores", "aic=2,aiv=2", "--perfetto", "{out}/trace.json", "--json"),
    ("schedule-diff", "moe", "moe"),
    ("size", "o_proj_decode", "head"),
    ("lint", *PULSES),
    ("watch", "moe", "--rounds", "1"),
    ("schedule", *PULSES, "--scheduler", "minpeak"),
    ("frontier", "head", "--points", "1"),
    ("ops", "show", "gate"),
    ("ops", "list"),
    ("graph", "list"),
    ("config", "show"),
    ("schedule", CONFORMANCE),
    ("ring-heap", "replay", CONFORMANCE),
    ("schedule", CAPTURE),
    ("critical-path", CAPTURE),
]


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """The environment of a process in which importing torch raises."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "torch.py").write_text("raise ImportError('torch is broken here')\n", encoding="utf-8")
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}


def ran(broken, *commands):
    """Status, output and errors of each command."""
    command = [sys.executable, "-c", RUN, json.dumps(commands)]
    done = subprocess.run(command, cwd=ROOT, env=broken, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def ends(broken, tmp_path_factory):
    """How each of the commands ends without torch."""
    out = tmp_path_factory.mktemp("out")
    all_of_them = ran(broken, *([argument.format(out=out) for argument in arguments] for arguments in COMMANDS))
    return dict(zip(COMMANDS, all_of_them, strict=True))


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_works_without_torch(arguments, ends):
    status, out, err = ends[arguments]
    assert status == 0 and out + err, out + err


def test_findings_come_without_torch(broken, tmp_path):
    graph = tmp_path / "g.yaml"
    graph.write_text('graph: g\ninputs: {x: "f32[T, D]"}\nbody:\n  - op: rms_nrom\n    in: {x: x}\n', encoding="utf-8")
    [[status, out, _]] = ran(broken, ("lint", str(graph), "--format", "json"))
    assert status == 1 and "rms_nrom" in str(json.loads(out))


NEEDS_TORCH = [
    ("run", "moe"),
    ("generate", "--checkpoint", "{out}", "--prompt-ids", "1"),
    ("checkpoint", "init", "--config", "tiny", "{out}/model"),
    ("checkpoint", "inspect", "{out}"),
]
RAISED = [
    "ImportError('undefined symbol')",
    "OSError('libcudart.so.12: cannot open shared object file')",
    "AttributeError('_ARRAY_API not found')",
    "ModuleNotFoundError('No module named torch', name='torch')",
]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"def load(:\n", "SyntaxError: invalid syntax"),
        (b"\xff\xfe", "SyntaxError: "),
        (b"raise SystemExit(3)\n", "SystemExit: 3"),
    ],
)
def test_a_package_that_cannot_be_read_or_ends_the_process_is_told(content, told, tmp_path, monkeypatch, call):
    name = "broken_package_of_a_test"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(imports, "THEIRS", frozenset({name}))
    monkeypatch.setattr("runner.driver.face.Driver.linted", lambda *given, **options: import_module(name))
    status, out, err = call("lint", "moe")
    assert (status, out) == (1, "") and err.startswith(f"error: {name} cannot be imported: {told}"), err
    assert err.endswith(f"\nhint: pip install --force-reinstall {name}\n")


@pytest.mark.parametrize(("arguments", "raised"), list(zip(NEEDS_TORCH, RAISED, strict=True)))
def test_what_runs_says_in_one_message_that_torch_cannot_be_imported(arguments, raised, tmp_path):
    """Whatever a broken torch raises, also from a function in a module of its; or a finder, where there is none."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import torch.inner\n", encoding="utf-8")
    (tmp_path / "torch" / "inner.py").write_text(f"def load():\n    raise {raised}\nload()\n", encoding="utf-8")
    if "ModuleNotFound" in raised:
        finder = f"class Finder:\n def find_spec(self, name, *given):\n  if name == 'torch':\n   raise {raised}\n"
        (tmp_path / "sitecustomize.py").write_text(f"import sys\n{finder}\nsys.meta_path.insert(0, Finder())\n", encoding="utf-8")
    command = [sys.executable, "-m", "runner", *(argument.format(out=tmp_path) for argument in arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1 and done.stdout == ""
    said, hint = done.stderr.splitlines()
    kind, _, message = raised.partition("(")
    broken = f"error: torch cannot be imported: {kind}: {message.strip(chr(39) + ')')}"
    assert said == ("error: torch is not installed" if "ModuleNotFound" in raised else broken)
    assert hint.startswith("hint: pip install ")


@pytest.mark.parametrize("asked", ["import torch\ntorch.Tensor", "from torch import Tensor"])
def test_a_folder_that_is_left_of_a_package_is_told(asked, tmp_path, monkeypatch, call):
    """As an installation that was interrupted leaves it: Python imports a folder without modules."""
    name = "left_of_a_package"
    (tmp_path / name / "lib").mkdir(parents=True)
    (tmp_path / "asks_for_it.py").write_text(asked.replace("torch", name), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(imports, "THEIRS", frozenset({name}))
    monkeypatch.setattr(imports, "OURS", imports.OURS | {"asks_for_it"})
    monkeypatch.setattr("runner.driver.face.Driver.linted", lambda *given, **options: import_module("asks_for_it"))
    status, out, err = call("lint", "moe")
    assert (status, out) == (1, "") and err.startswith(f"error: {name} cannot be imported: "), err
    assert err.endswith(f"\nhint: pip install --force-reinstall {name}\n")
