"""The arrows between rooms, read from the folders: a room imports only what stands below it, and nothing in a circle."""

import ast
import re
from functools import cache
from pathlib import Path

import networkx as nx
import pytest
from places import DOCS, ROOT

PACKAGES = ("runner", "ops", "schedulers", "docs")

PAGE = (DOCS / "architecture.md").read_text(encoding="utf-8")
OUTSIDE_RUNNER = ("docs", "schedulers", "ops")


def _floors() -> tuple[tuple[str, ...], ...]:
    """Rooms from the roof down, as the page draws them; a room may import what stands on lower floors."""
    block = re.search(r"^```floors\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert block is not None, "docs/architecture.md has no block of floors"
    rows = [[name.strip() for name in line.split(",")] for line in block[1].splitlines()]
    return tuple(tuple(name if name in OUTSIDE_RUNNER else f"runner.{name}" for name in row) for row in rows)


FLOORS = _floors()

RISES_TODAY: set[tuple[str, str]] = set()
"""Arrows that still rise, and go with the steps that follow."""


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {_module(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


@cache
def _graph() -> nx.DiGraph:
    """Modules of ours, and an arrow from each to those that it imports."""
    return nx.DiGraph((module, other) for module in SOURCES for other in _ours(module))


@cache
def _imports(module: str) -> frozenset[str]:
    """Every name that the module imports, wherever in it."""
    return _imported(ast.parse(SOURCES[module].read_text(encoding="utf-8")))


def _imported(tree: ast.AST) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


@cache
def _names_torch(module: str) -> bool:
    """Whether the module imports torch, other than for types only."""
    tree = ast.parse(SOURCES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    return any(name.split(".")[0] == "torch" for name in _imported(tree))


def _ours(module: str) -> set[str]:
    """Modules of ours that it imports; a package stands for what its `__init__` holds."""
    return {name for name in _imports(module) if name in SOURCES and name != module and _room(name)}


def _room(module: str) -> str | None:
    """The room that a module lies in; None for the packages around rooms."""
    rooms = [room for floor in FLOORS for room in floor if module == room or module.startswith(f"{room}.")]
    return max(rooms, key=len, default=None)


def _floor(room: str) -> int:
    return next(index for index, floor in enumerate(FLOORS) if room in floor)


def _arrows() -> dict[tuple[str, str], list[str]]:
    """Each pair of different rooms with an import from the first to the second, and the imports."""
    found: dict[tuple[str, str], list[str]] = {}
    for module in SOURCES:
        for other in _ours(module):
            pair = (_room(module), _room(other))
            if None not in pair and pair[0] != pair[1]:
                found.setdefault(pair, []).append(f"{module} -> {other}")  # type: ignore[arg-type]
    return found


def test_every_module_lies_in_a_room():
    packages = {"runner", "runner.__main__"}
    assert [module for module in SOURCES if _room(module) is None and module not in packages] == []
    assert len(SOURCES) > 100, "the folders were not read"


def test_the_page_has_a_row_for_each_room():
    """Every folder with modules is a room or lies in one, and the table of the page names each room."""
    rows = set(re.findall(r"^\| `([^|]+)` \|", PAGE.split("## A tour")[0], re.MULTILINE))
    named = {part.strip("` ").replace("/", ".") for row in rows for part in row.split(",")}
    rooms = {room for floor in FLOORS for room in floor}
    wanted = {"docs.figures" if room == "docs" else room.removesuffix(".deepseek_v4") for room in rooms}
    assert wanted <= named
    assert named - wanted <= {"docs.examples"}


def test_arrows_go_down():
    rising = {pair: found for pair, found in _arrows().items() if _floor(pair[0]) > _floor(pair[1])}
    assert {pair: found for pair, found in rising.items() if pair not in RISES_TODAY} == {}
    assert set(rising) >= RISES_TODAY, "an arrow listed as rising is gone: take it off the list"


def test_no_import_cycles():
    graph = _graph().copy()
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    assert [cycle for cycle in nx.simple_cycles(graph) if len(cycle) > 1] == []


def test_no_circle_of_rooms():
    graph = nx.DiGraph(pair for pair in _arrows() if pair not in RISES_TODAY)
    assert list(nx.simple_cycles(graph)) == []


@pytest.mark.parametrize("room", sorted({room for floor in FLOORS for room in floor} - {"docs", "runner.cli", "runner.driver"}))
def test_only_cli_driver_and_docs_know_ops_schedulers_and_models(room):
    barred = ("ops", "schedulers", "runner.models.deepseek_v4")
    found = {pair: imports for pair, imports in _arrows().items() if pair[0] == room and pair[1] in barred}
    assert {pair: imports for pair, imports in found.items() if pair not in RISES_TODAY} == {}


@pytest.mark.parametrize("module", [m for m in SOURCES if m == "ops" or m.startswith("ops.")])
def test_ops_import_only_the_registry_side(module):
    allowed = ("runner.program.ops", "runner.base", "runner.execution.comm")
    found = {name for name in _ours(module) if _room(name) != "ops"}
    assert {name for name in found if not name.startswith(allowed)} == set()


@pytest.mark.parametrize("module", [m for m in SOURCES if m.startswith("schedulers")])
def test_schedulers_never_touch_ops_or_torch(module):
    names = _imports(module)
    assert {n for n in names if n.split(".")[0] in ("ops", "torch", "yaml") or n.startswith("runner.language")} == set()


@pytest.mark.parametrize("module", [m for m in SOURCES if m.startswith("ops.") and not m.startswith("ops.kernels")])
def test_declarations_of_ops_know_no_kernel(module):
    graph = _graph()
    reached = {module} | (nx.descendants(graph, module) if module in graph else set())
    assert {m for m in reached if m.startswith("ops.kernels") or _names_torch(m)} == set()


@pytest.mark.parametrize("room", ["base", "language", "program", "config", "expansion", "rings", "verify", "lint", "writeback"])
def test_planning_never_imports_torch(room):
    graph = _graph()
    for module in [m for m in SOURCES if _room(m) == f"runner.{room}"]:
        reached = {module} | (nx.descendants(graph, module) if module in graph else set())
        assert {m for m in reached if _names_torch(m)} == set()


def test_the_verifier_is_independent():
    found = {name for module in SOURCES if _room(module) == "runner.verify" for name in _ours(module)}
    assert {n for n in found if n.startswith(("runner.rings.heap", "runner.rings.replay", "schedulers"))} == set()


def test_few_modules_read_yaml():
    users = {m for m in SOURCES if any(n.split(".")[0] in ("yaml", "ruamel") for n in _imports(m))}
    assert users <= {
        "runner.language.yaml_source",
        "runner.language.given",
        "runner.writeback.text",
        "runner.rings.devices.devices",
    }


BELOW_CLI = [m for m in SOURCES if _room(m) not in ("runner.cli", "docs") and m != "runner.__main__"]


@pytest.mark.parametrize("module", BELOW_CLI)
def test_nothing_below_the_command_line_prints(module):
    """... to its own standard output or error: what there is to tell is returned, raised, or given to a callback."""
    tree = list(ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))))
    names = {node.id for node in tree if isinstance(node, ast.Name)} | {name.split(".")[0] for name in _imports(module)}
    streams = {ast.unparse(node) for node in tree if isinstance(node, ast.Attribute)} & {"sys.stdout", "sys.stderr"}
    assert names.isdisjoint({"print", "Console", "rich"}) and not streams
