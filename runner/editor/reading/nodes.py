"""Where a place lies in a file's nodes: the way from the root to it, and what stands there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runner.editor.reading.text import Text
from runner.language.builder import KEYWORDS
from runner.language.yaml_source import Node


@dataclass(frozen=True, slots=True)
class Step:
    """One node on the way, with its key where it stands in a map; `in_key`: the key is what is meant."""

    node: Node
    key: Node | None = None
    in_key: bool = False


def way_to(root: Node, text: Text, offset: int) -> list[Step]:
    """The nodes from the root to the scalar that an offset lies in; ends above it where the offset lies in none."""
    way = [Step(root)]
    while (found := _inside(way[-1].node, text, offset)) is not None:
        way.append(found)
        if found.in_key or found.node.kind == "text":
            break
    return way


def _inside(node: Node, text: Text, offset: int) -> Step | None:
    """The last entry of a list or map that begins at an offset or before it."""
    best: Step | None = None
    for key, value in node.value if node.kind == "map" else ((None, item) for item in node.value) if node.kind == "list" else ():
        first = key if key is not None else value
        if text.offset(first.mark) - 1 > offset:
            continue
        if key is not None and offset <= text.offset(key.mark) + len(key.value):
            best = Step(value, key, True)
        elif value.kind != "text" or _covers(value, text, offset) or key is not None:
            best = Step(value, key)
    return best


def _covers(node: Node, text: Text, offset: int) -> bool:
    start = text.offset(node.mark)
    return start - 1 <= offset <= start + len(node.value) + 1


def is_at(step: Step, text: Text, offset: int) -> bool:
    """Whether an offset lies in the text of the last step of a way."""
    node = step.key if step.in_key and step.key is not None else step.node
    return node.kind == "text" and _covers(node, text, offset)


def keyword_of(node: Node) -> str | None:
    """What kind of item a node is."""
    return next((name for name in KEYWORDS if node.get(name)), None) if node.kind == "map" else None


def item_on(way: list[Step]) -> Node | None:
    """The innermost item on a way."""
    found = [step.node for step in way if not step.in_key and keyword_of(step.node) is not None]
    return found[-1] if found else None


def items(node: Node | None) -> Iterator[Node]:
    """The items of a body or branch, in the order of the file, without those inside them."""
    if node is None:
        return
    for item in node.value if node.kind == "list" else (node,):
        if keyword_of(item) is not None:
            yield item


def bodies(item: Node) -> Iterator[Node]:
    """The bodies and branches of an item."""
    for name in ("body", "then", "else"):
        if (found := item.get(name)) is not None:
            yield found
    cases = item.get("cases")
    yield from (value for _, value in (cases.value if cases is not None and cases.kind == "map" else ()))


def all_items(node: Node | None) -> Iterator[Node]:
    """The items of a body and all inside them."""
    for item in items(node):
        yield item
        for inner in bodies(item):
            yield from all_items(inner)


def names_on(way: list[Step]) -> list[str]:
    """The keys on a way; "" for entries of lists."""
    return [step.key.value if step.key is not None and step.key.kind == "text" else "" for step in way[1:]]
