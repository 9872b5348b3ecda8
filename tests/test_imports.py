"""The arrows of docs/design.md: modules import one way, and some never import each other."""

import ast
import re
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("runner", "ops", "schedulers")


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


SOURCES = {_module(p): p for package in PACKAGES for p in sorted((ROOT / package).glob("*.py"))}
ROOTS = {"runner.cli", "runner.demo"} | {m for m in SOURCES if m.startswith(("runner.commands_", "runner.figures"))}
"""Composition roots: the only modules that know concrete ops and schedulers."""


def _ours(module: str) -> set[str]:
    return {name for name in _imports(SOURCES[module]) if name in SOURCES and name != module}


def test_no_import_cycles():
    graph = nx.DiGraph((module, other) for module in SOURCES for other in _ours(module))
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    cycles = [c for c in nx.simple_cycles(graph) if len(c) > 1]
    assert cycles == []


@pytest.mark.parametrize("module", [m for m in SOURCES if m.startswith("runner") and m not in ROOTS])
def test_runner_does_not_know_ops_or_schedulers(module):
    assert {n for n in _imports(SOURCES[module]) if n.split(".")[0] in ("ops", "schedulers")} == set()


@pytest.mark.parametrize("module", [m for m in SOURCES if m.startswith("ops")])
def test_ops_import_only_the_registry_side(module):
    allowed = {"runner.registry", "runner.spec", "runner.errors", "runner.comm"}
    assert {n for n in _ours(module) if n.startswith("runner")} <= allowed
    assert not {n for n in _ours(module) if n.startswith("schedulers")}


@pytest.mark.parametrize("module", [m for m in SOURCES if m.startswith("schedulers")])
def test_schedulers_never_touch_ops_or_torch(module):
    names = _imports(SOURCES[module])
    assert not {n for n in names if n.split(".")[0] in ("ops", "torch", "yaml")}


@pytest.mark.parametrize(
    "module", [f"runner.{m}" for m in ("errors", "spec", "program", "schedule", "ring_heap", "progress", "expand", "verify")]
)
def test_planning_never_imports_torch(module):
    graph = nx.DiGraph((m, other) for m in SOURCES for other in _ours(m))
    reached = {module} | (nx.descendants(graph, module) if module in graph else set())
    assert {m for m in reached if any(n.split(".")[0] == "torch" for n in _imports(SOURCES[m]))} == set()


def test_the_verifier_is_independent():
    assert not {n for n in _ours("runner.verify") if n.startswith(("runner.ring_heap", "runner.progress", "schedulers"))}


def test_few_modules_read_yaml():
    users = {m for m in SOURCES if any(n.split(".")[0] in ("yaml", "ruamel") for n in _imports(SOURCES[m]))}
    assert users <= {"runner.yaml_source", "runner.config_layers", "runner.writeback_text"}


def test_the_page_on_design_names_every_module():
    """Each module of `runner/` stands once in the table; `commands_*` stands for all commands."""
    page = (ROOT / "docs" / "design.md").read_text()
    table = page[page.index("| modules of `runner/`") : page.index("| folder |")]
    named = [name for row in table.splitlines() if row.startswith("| `") for name in re.findall(r"`(\w+\*?)`", row.split("|")[1])]
    modules = {m.removeprefix("runner.") for m in SOURCES if m.startswith("runner.") and not m.startswith("runner.commands_")}
    assert sorted(named) == sorted(modules | {"commands_*"})
