"""What mends a finding, where its hint says so exactly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from runner.base.errors import Diagnostic, Edge, Hint, Mark, Rewrite
from runner.editor.navigation import Edit, beside_head
from runner.editor.reading import nodes
from runner.editor.reading.text import Text
from runner.editor.workspace import Workspace
from runner.language.yaml_source import Node


@dataclass(frozen=True, slots=True)
class Fix:
    """A remedy in words, and its edit in `file`."""

    title: str
    file: str
    edit: Edit


def fixes(workspace: Workspace, finding: Diagnostic) -> Iterator[Fix]:
    """The remedies of a finding, each on its own."""
    if not isinstance(finding.hint, Hint) or finding.mark is None:
        return
    for remedy in finding.hint.remedies:
        match remedy:
            case Rewrite():
                text, tree = workspace.text(finding.mark.file), workspace.tree(finding.mark.file)
                start = _place(text, tree[0], finding.mark, remedy) if text is not None and tree is not None else None
                if start is not None:
                    edit = Edit(start, start + len(remedy.old), remedy.new)
                    yield Fix(f"Write {remedy.new}", finding.mark.file, edit)
            case Edge():
                yield from _edge(workspace, remedy)


def _edge(workspace: Workspace, remedy: Edge) -> Iterator[Fix]:
    text, tree = workspace.text(remedy.item.file), workspace.tree(remedy.item.file)
    if text is None or tree is None:
        return
    item = next((each for each in nodes.all_items(tree[0].get("body")) if each.mark == remedy.item), None)
    edit = _after(text, item, remedy.entry) if item is not None else None
    if edit is not None:
        yield Fix(f"Add after: [{remedy.entry}]", remedy.item.file, edit)


def _place(text: Text, root: Node, mark: Mark, remedy: Rewrite) -> int | None:
    """Where what is to be rewritten begins; None where it is not there any more."""
    if remedy.of_key:
        key = next((key for key, value in _pairs(root) if (value.mark.line, value.mark.column) == (mark.line, mark.column)), None)
        start = text.offset(key.mark) if key is not None else -1
        return start if start >= 0 and text.value.startswith(remedy.old, start) else None
    start = text.offset(mark)
    if text.value.startswith(remedy.old, start):
        return start
    line = re.compile(r"[^\n\r]*").match(text.value, start)
    word = re.compile(rf"(?<!\w){re.escape(remedy.old)}(?!\w)")
    found = word.search(text.value, start, line.end() if line is not None else start)
    return found.start() if found is not None else None


def _pairs(node: Node) -> Iterator[tuple[Node, Node]]:
    """Every key and its value, in a node and below; the inner ones first."""
    for child in (value for _, value in node.value) if node.kind == "map" else node.value if node.kind == "list" else ():
        yield from _pairs(child)
    if node.kind == "map":
        yield from node.value


def _after(text: Text, item: Node, entry: str) -> Edit | None:
    """`entry` among what an item waits for."""
    given, head = item.get("after"), item.get("op")
    if given is None:
        return beside_head(text, item, head, f"after: [{entry}]") if head is not None else None
    if given.kind != "list" or entry in [each.value for each in given.value]:
        return None
    start = text.offset(given.mark)
    if text.value[start] == "[":
        return Edit(start + 1, start + 1, f"{entry}, " if given.value else entry)
    return Edit(start, start, f"- {entry}\n{' ' * (given.mark.column - 1)}")
