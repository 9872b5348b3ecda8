"""docs/add-a-model.md is true of the worked example and of the door; examples use the Python face alone; links lead somewhere."""

import ast
import re

import pytest
from installed_family import EXAMPLE
from places import DOCS, ROOT

from runner.language.given import DEEP

PAGE = (DOCS / "add-a-model.md").read_text(encoding="utf-8")
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")])
CLASSES = {
    "ModelFamily": ("family", "DeclaredFamily"),
    "CheckpointLayout": ("layout", "DeclaredLayout"),
}
"""Protocols, and what satisfies them for a family that is data."""
BY_DEFAULT = {"ModelFamily.request_state": "`state`", "ModelFamily.first_call": "`state`"}
"""Members whose default asks the section."""


def rows(header):
    """The rows of the table with that header."""
    _, _, rest = PAGE.partition(header + "\n")
    table = rest.split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_lines_that_each_file_took():
    told = {name.strip("`"): int(lines) for name, lines, _ in rows("| file | lines | what it says |")}
    files = [path for path in EXAMPLE.rglob("*") if path.suffix in (".py", ".yaml", ".toml") and "build" not in path.parts]
    assert told == {path.relative_to(EXAMPLE).as_posix(): len(path.read_text().splitlines()) for path in files}


def classes(path):
    return {node.name: node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)}


def members(cls):
    """Members of a class that stand in its body: name -> whether it has a value or a body."""
    found = {}
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node.value is not None
        elif isinstance(node, ast.Assign):
            found |= {target.id: True for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.FunctionDef):
            last = node.body[-1]
            is_open = isinstance(last, ast.Expr) and isinstance(last.value, ast.Constant)
            found[node.name] = not is_open
            if node.name == "__init__":
                written = (item.targets[0] for item in node.body if isinstance(item, ast.Assign))
                found |= {target.attr: True for target in written if isinstance(target, ast.Attribute)}
    return found


def test_every_member_of_the_door_and_whether_the_example_has_it():
    door = classes(ROOT / "runner" / "models" / "protocols.py")
    told = {member.strip("`"): how for member, _, how in rows("| member | asked by | for a family that is data |")}
    asked = set()
    for protocol, (module, name) in CLASSES.items():
        own = members(classes(ROOT / "runner" / "models" / "declared" / f"{module}.py")[name])
        parents = [base.id for base in door[protocol].bases if isinstance(base, ast.Name) and base.id in door]
        for member, has_default in {
            member: has for cls in (protocol, *parents) for member, has in members(door[cls]).items()
        }.items():
            assert member in own or has_default, f"{name} lacks {member}"
            path = f"{protocol}.{member}"
            asked.add(path)
            section = BY_DEFAULT.get(path) or (r"`\w+`" if member in own else "default")
            assert re.fullmatch(section, told.get(path, "")), path
    assert told.keys() == asked


def test_every_section_of_a_layer_is_on_the_page():
    told = {section.strip("`") for section, *_ in rows("| section | what it says | its page |")}
    assert told == {*DEEP, "family", "model_types", "preset"}


def imported(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def examples():
    """Every module of the worked example, and every block of Python on a page."""
    for path in sorted(EXAMPLE.rglob("*.py")):
        yield pytest.param(path.read_text(encoding="utf-8"), id=path.name)
    for page in PAGES:
        for n, code in enumerate(
            re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        ):
            yield pytest.param(code, id=f"{page.name}-{n}")


@pytest.mark.parametrize("code", list(examples()))
def test_examples_use_the_python_face_alone(code):
    inside = ("runner.", "ops", "schedulers", "graphs")
    assert [name for name in imported(code) if name.startswith(inside)] == []


def anchors(path):
    """What a heading can be linked by."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name} links {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links {link}"
