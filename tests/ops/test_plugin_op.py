"""Ops of other packages: the worked example of `docs/ops.md`, installed with pip and used in a graph, and what can go wrong."""

import re
import subprocess
import sys
from importlib import invalidate_caches

import pytest
import torch
from places import ROOT

from ops import register_all
from runner.base.errors import RinggraphError
from runner.config.config import load_config
from runner.execution.executor import execute
from runner.expansion.expander import expand
from runner.language.library import load_graph
from runner.lint.lint import lint
from runner.program.ops import OpRegistry
from schedulers.layouts.layouts import annotated

PAGE = (ROOT / "docs" / "ops.md").read_text(encoding="utf-8")


def example(name):
    """The file of that name as the page shows it."""
    found = re.search(rf"^`{re.escape(name)}`\n\n```\w+\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert found, f"docs/ops.md shows no {name}"
    return found[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The example package, installed by pip into a folder of its own."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("pyproject.toml", "ringgraph_softcap.py"):
        (source / name).write_text(example(name), encoding="utf-8")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *options, str(source)], check=True, timeout=600)
    return target


@pytest.fixture
def on_path(monkeypatch):
    """Puts a folder of packages on the path for one test, and forgets its modules afterwards."""
    before = set(sys.modules)

    def add(folder):
        monkeypatch.syspath_prepend(str(folder))
        invalidate_caches()

    yield add
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_the_example_of_the_page(installed, on_path, tmp_path):
    on_path(installed)
    registry = OpRegistry()
    register_all(registry)
    assert registry["soft_cap"].doc.startswith("Values bent smoothly")
    assert len(registry) > 50, "ours are there too"

    path = tmp_path / "capped.yaml"
    path.write_text(example("capped.yaml"), encoding="utf-8")
    config = load_config(["tiny"], ["dtype=bf16"])
    assert lint([path], config, registry) == []
    program = expand(load_graph(path), config, registry)
    x = torch.randn(config["T"], config["D"]).bfloat16() * 20
    y = torch.empty_like(x)
    execute(annotated(program, {}), registry, {program.inputs["x"]: x, program.outputs["y"]: y})
    torch.testing.assert_close(y, (5 * torch.tanh(x.float() / 5)).bfloat16())


def test_the_command_line_knows_it(installed):
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); from runner.cli.main import main; main()"
    command = [sys.executable, "-c", code, "ops", "show", "soft_cap"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert shown.returncode == 0 and "none exceeds `cap`" in shown.stdout, shown.stdout + shown.stderr


def package(folder, entry, code):
    """A package as installed: a module and its metadata, made by hand."""
    (folder / "broken_ops.py").write_text(code, encoding="utf-8")
    info = folder / "broken_ops-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-ops\nVersion: 0.1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[ringgraph.ops]\nbroken = {entry}\n", encoding="utf-8")


TAKEN = """
from runner.program.ops import OpRegistry
ops = OpRegistry()
ops.op("rms_norm", "x: f32[N] -> y: f32[N]", core="AIV")(lambda x, *, y: None)
"""


@pytest.mark.parametrize(
    "entry, code, reason",
    [
        ("broken_ops:ops", TAKEN, "op 'rms_norm' is registered twice: "),
        ("broken_ops:ops", "import no_such_module", "No module named 'no_such_module'"),
        ("broken_ops:missing", "", "module 'broken_ops' has no attribute 'missing'"),
        ("broken_ops:ops", "ops = 3", "it is of type 'int', expected an OpRegistry or a function"),
        ("broken_ops:ops", "def ops(registry): raise ValueError('no luck')", "no luck"),
    ],
)
def test_a_broken_package_is_named(entry, code, reason, on_path, tmp_path):
    package(tmp_path, entry, code)
    on_path(tmp_path)
    with pytest.raises(RinggraphError) as caught:
        register_all(OpRegistry())
    told = str(caught.value)
    assert told.startswith(f"entry point 'broken' of package 'broken-ops' ({entry}) cannot be used: {reason}")
    assert told.endswith("\nhint: mend or uninstall 'broken-ops'")
    assert code != TAKEN or ("norm.py:" in told and "broken_ops.py:" in told)


def test_an_entry_point_may_be_a_function(on_path, tmp_path):
    code = "def add(registry):\n    registry.op('nothing', '-> y: f32[N]', core='AIV')(lambda *, y: None)\n"
    package(tmp_path, "broken_ops:add", code)
    on_path(tmp_path)
    registry = OpRegistry()
    register_all(registry)
    assert "nothing" in registry
