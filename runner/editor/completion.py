"""What may be written at a place of a file, whatever the rest of it looks like.

A word that nobody uses is put where the cursor is, and the tolerant reader says where in the graph that word stands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from runner.base.tensor_spec import DTYPE_BYTES
from runner.base.units import human_bytes
from runner.editor.fields import field_rules
from runner.editor.hover import field_doc, op_text, tensor_text
from runner.editor.outline import scratch
from runner.editor.reading import names, nodes, tolerant
from runner.editor.reading.sharing import Listing, Made, entries, flat
from runner.editor.reading.symbols import Visible
from runner.editor.reading.text import Place, Text
from runner.editor.workspace import Workspace
from runner.language.builder import KEYWORDS
from runner.language.library import shipped_graphs
from runner.language.structure import schema
from runner.language.yaml_source import Node
from runner.program.ops import OpDef, Operand

_MARKER = "zzcursorzz"
_FUNCTIONS = ("ceil", "floor", "min", "max")


@dataclass(frozen=True, slots=True)
class Offer:
    """One thing that may be written: `text` in place of the word at the cursor. `kind` is what it is, as `op` or `tensor`."""

    text: str
    kind: str
    detail: str = ""
    doc: str = ""
    label: str = ""


def complete(workspace: Workspace, path: str, offset: int) -> tuple[list[Offer], Place]:
    """What may stand at an offset, and the word that it would replace."""
    text = workspace.text(path)
    if text is None:
        return [], Place(path, offset, offset)
    start, end = text.word(offset)
    where = Place(path, start, end)
    before = text.around(offset)
    if re.search(r"(^|\s)#", before) and not re.search(r"['\"][^'\"]*#", before):
        return [], where
    marked = Text(path, text.value[:start] + _MARKER + text.value[end:], text.encoding)
    root = tolerant.read(marked.lines, path)
    way = nodes.way_to(root, marked, start + 1)
    place = _Completer(workspace, path, root, marked, way)
    found = place.layer() if workspace.kinds.get(os.path.realpath(path)) == "layer" else place.graph()
    unique = {(offer.text, offer.label): offer for offer in found}
    return list(unique.values()), where


@dataclass
class _Completer:
    workspace: Workspace
    path: str
    root: Node
    text: Text
    way: list[nodes.Step]

    # --- layers of configurations ---

    def layer(self) -> Iterator[Offer]:
        rules = field_rules(self.workspace, self.path)
        keys = nodes.names_on(self.way)
        if len(keys) <= 1 and (not keys or self.way[-1].in_key):
            given = {key.value for key, _ in self.root.value if key.kind == "text"}
            for name, rule in rules.items():
                if name not in given:
                    yield Offer(name, "key", _kind_text(rule), str(rule.get("description", "")), label=name)
        elif keys:
            rule = rules.get(keys[0], {})
            for choice in rule.get("enum", ()):
                yield Offer(str(choice), "value")
            yield from self.values(Visible({}, {}, ()))

    # --- graphs ---

    def graph(self) -> Iterator[Offer]:
        keys, last = nodes.names_on(self.way), self.way[-1]
        item = nodes.item_on(self.way)
        if not self.way[1:] or (last.in_key and len(keys) == 1):
            yield from self.keys(schema(), self.root)
            return
        if keys[0] != "body":
            yield from self.section(keys)
            return
        if _is_item_start(self.way):
            yield from _keywords()
        if item is None:
            return
        inside = keys[next(number for number, step in enumerate(self.way) if step.node is item) :]
        keyword = nodes.keyword_of(item)
        assert keyword is not None
        if len(inside) == 1 and last.in_key:
            yield from self.keys(schema()["definitions"][keyword], item)
        elif inside:
            yield from self.inside(keyword, item, inside, last)

    def section(self, keys: list[str]) -> Iterator[Offer]:
        """What stands in the head of a graph."""
        last, section = self.way[-1], keys[0]
        if section == "deploy" and not last.in_key:
            config = self.workspace.config(self.path)
            yield from (Offer(name, "value") for name in (config.deployments if config is not None else ()))
        elif section == "share":
            yield from self.share(keys)
        elif section == "params" and not last.in_key:
            yield from self.values(Visible({}, {}, ()))
        elif section in names.SECTIONS and last.in_key and len(keys) == 3:
            yield from self.keys(schema()["definitions"]["declaration"], self.way[-2].node)
        elif section in names.SECTIONS and not last.in_key and len(keys) >= 2:
            if keys[-1] == "from":
                yield from self.values(self.visible())
            elif keys[-1] not in ("stack", "shard", "doc"):
                yield from self.type(self.visible())

    def share(self, keys: list[str]) -> Iterator[Offer]:
        """What stands in a list of shared bytes, which may lie in a group of another."""
        last, depth = self.way[-1], 1
        while len(keys) > depth + 2 and keys[depth + 2] == "share":
            depth += 3
        found, behind = entries(self.way[depth].node), keys[depth + 2 :]
        index = self.indexed()
        if len(keys) <= depth or len(keys) == depth + 1 or (last.in_key and not behind):
            yield from self.behind_dots(self.entries(index.made))
        elif last.in_key and len(behind) == 1:
            yield from self.keys(schema()["definitions"]["placed"], self.way[depth + 2].node)
        elif last.in_key and behind[0] == "copies":
            yield from (Offer(name, "variable") for name in index.made.loops)
        elif not last.in_key and behind[:1] not in (["copies"], ["ring"]):
            if not self.text.around(self.text.offset(last.node.mark)).partition(_MARKER)[0].strip() and not behind:
                yield from (Offer(name, "key") for name in schema()["definitions"]["placed"]["properties"])
            own = Listing(found, names.interface(self.root, os.path.realpath(self.path)))
            yield from self.behind_dots(self.beside(own, keys[depth + 1], behind[:1] == ["apart"]))

    def entries(self, made: Made) -> Iterator[Offer]:
        """What may be an entry, and is none yet."""
        given = {entry.name for entry in flat(entries(self.root.get("share")))}
        for name, symbols in made.tensors.items():
            if name not in given:
                yield Offer(name, "tensor", symbols[0].spec, tensor_text(self.workspace, self.path, symbols[0]))
        yield from (Offer(name, "graph") for name in made.uses if name not in given)
        own = Listing((), names.interface(self.root, os.path.realpath(self.path)))
        for use in made.uses:
            below = own.of_use(use, self.workspace.interface)
            inside = (f"{use}.{entry.name}" for entry in flat(below.entries if below is not None else ()) if entry.inside is None)
            yield from (Offer(name, "tensor") for name in inside if name not in given)
        ids = {(mark.line, mark.column): name for name, ops in made.ops.items() for _, _, mark in ops}
        for mark, name, spec in scratch(self.workspace, self.path):
            full = f"{ids.get((mark.line, mark.column), '')}.{name}"
            if full not in given and full[0] != ".":
                yield Offer(full, "tensor", f"{spec}", f"scratch memory, {human_bytes(spec.size_bytes)}")

    def beside(self, own: Listing, name: str, with_inner: bool) -> Iterator[Offer]:
        """The other entries of a list; behind the dots of `apart` those inside of one."""
        way = own.way(self.before().rpartition(".")[0], self.workspace.interface) if with_inner and "." in self.before() else []
        below = Listing((), way[-1][1]).below(way[-1][0], self.workspace.interface) if way else None
        prefix = self.before().rpartition(".")[0]
        yield from (Offer(f"{prefix}.{entry.name}", "tensor") for entry in flat(below.entries if below is not None else ()))
        yield from (Offer(entry.name, "tensor") for entry in own.entries if entry.name != name and _MARKER not in entry.name)

    def behind_dots(self, offers: Iterator[Offer]) -> Iterator[Offer]:
        """Names with dots, of which only what is left to write replaces the word at the cursor."""
        start = self.before().rpartition(".")[0]
        for offer in offers:
            if not start:
                yield offer
            elif offer.text.startswith(f"{start}."):
                yield replace(offer, text=offer.text[len(start) + 1 :])

    def keys(self, rule: Mapping[str, Any], node: Node) -> Iterator[Offer]:
        """The keys of a map that are not there yet."""
        given = {key.value for key, _ in node.value if key.kind == "text"} if node.kind == "map" else ()
        for name, inner in rule["properties"].items():
            if name not in given:
                shown = schema()["definitions"].get(inner.get("$ref", "").rpartition("/")[2], {}) | inner
                yield Offer(name, "key", doc=shown.get("description", ""))

    def inside(self, keyword: str, item: Node, inside: list[str], last: nodes.Step) -> Iterator[Offer]:
        """What stands in an item, behind or below one of its keys."""
        key, seen = inside[0], self.visible()
        match keyword, key:
            case "op", "op":
                yield from self.ops()
            case "op", "in" | "out" | "attrs" | "modes":
                yield from self.op_part(item, key, inside, last, seen)
            case _, "after" | "after_wait_only":
                yield from self.behind_dots(Offer(name, "id") for name in seen.ids)
            case "use", "use":
                yield from self.graphs()
            case "use", "with":
                yield from self.bindings(item, inside, last, seen)
            case "alloc", "alloc" if not last.in_key and len(inside) >= 2:
                yield from self.type(seen)
            case "view", "of":
                yield from self.region(seen)
            case "view", "type":
                yield from self.type(seen)
            case ("for", "range" | "max") | ("if", "if") | ("switch", "switch"):
                yield from (*self.values(seen), *self.tensors(seen))
            case "for", "carry":
                yield from self.tensors(seen)
            case "scope", "mode":
                yield from (Offer(each, "value") for each in ("auto", "manual"))

    def op_part(self, item: Node, key: str, inside: list[str], last: nodes.Step, seen: Visible) -> Iterator[Offer]:
        head = item.get("op")
        name = head.value if head is not None and head.kind == "text" else ""
        definition = self.workspace.registry(self.path).get(name)
        if len(inside) == 1 or last.in_key:
            section = item.get(key)
            given = {each.value for each, _ in section.value} if section is not None and section.kind == "map" else set()
            yield from _operands(definition, key, given) if definition is not None else ()
        elif key == "attrs":
            yield from self.values(seen)
        elif key == "modes":
            yield from (Offer(mode, "value") for mode in ("existing", "no_dep", "manual_dep"))
        elif key == "in":
            yield from self.region(seen)
        else:
            creates = re.match(r"\s*\w+\s*:", self.before())
            yield from self.type(seen) if creates or "{" in self.before() else self.region(seen)
            yield from self.new_types(definition, inside)

    def new_types(self, definition: OpDef | None, inside: list[str]) -> Iterator[Offer]:
        """The type of an output that creates a tensor."""
        for operand in definition.outputs if definition is not None and not self.before() else ():
            if operand.name == inside[-1] and operand.mode == "out":
                yield Offer(_type_of(operand), "type", "creates a tensor")

    def bindings(self, item: Node, inside: list[str], last: nodes.Step, seen: Visible) -> Iterator[Offer]:
        head = item.get("use")
        face = self.workspace.interface(head.value, self.path) if head is not None and head.kind == "text" else None
        if len(inside) == 1 or last.in_key:
            for section, found in face.sections.items() if face is not None else ():
                yield from (Offer(name, "member", section, spec) for name, spec in found.items())
            return
        yield from self.region(seen)
        yield from self.values(seen)

    # --- names ---

    def before(self) -> str:
        """The text of the scalar up to the cursor."""
        last = self.way[-1]
        node = last.key if last.in_key and last.key is not None else last.node
        return node.value.partition(_MARKER)[0] if node.kind == "text" else ""

    def indexed(self) -> names.Index:
        """The names of the text, and what is visible on the way to the cursor."""
        config = self.workspace.config(self.path)
        values = config.values if config is not None else ()
        marked = [id(step.node) for step in self.way]
        real = os.path.realpath(self.path)
        return names.index(self.root, replace(self.text), real, values, self.workspace.interface, marked)

    def visible(self) -> Visible:
        """What may be named at the cursor."""
        found, marked = self.indexed(), [id(step.node) for step in self.way]
        here = next((found.visible[each] for each in reversed(marked) if each in found.visible), None)
        if here is not None:
            return here
        params = {each.symbol.name: each.symbol for each in found.occurrences if each.symbol.kind == "param"}
        return Visible({}, params, ())

    def ops(self) -> Iterator[Offer]:
        for name, definition in self.workspace.registry(self.path).items():
            yield Offer(name, "op", definition.signature, op_text(definition))

    def graphs(self) -> Iterator[Offer]:
        folder = os.path.dirname(os.path.realpath(self.path))
        there = os.listdir(folder) if os.path.isdir(folder) else ()
        beside = sorted(name.removesuffix(".yaml") for name in there if name.endswith(".yaml"))
        for name in dict.fromkeys((*beside, *shipped_graphs())):
            yield Offer(name, "graph")

    def tensors(self, seen: Visible) -> Iterator[Offer]:
        for name, symbol in seen.tensors.items():
            yield Offer(name, "tensor", symbol.spec, tensor_text(self.workspace, self.path, symbol))

    def values(self, seen: Visible) -> Iterator[Offer]:
        """Names that expressions use."""
        for name, symbol in seen.variables.items():
            yield Offer(name, "variable" if symbol.kind == "variable" else "param", symbol.spec)
        config = self.workspace.config(self.path)
        for name, value in config.values.items() if config is not None else ():
            if name.isidentifier():
                yield Offer(name, "field", _shortened(value), field_doc(self.workspace, self.path, name))
        yield from (Offer(name, "function") for name in _FUNCTIONS)

    def region(self, seen: Visible) -> Iterable[Offer]:
        """A tensor, or behind its bracket what indexes it."""
        return self.values(seen) if re.search(r"[\[{]", self.before()) else self.tensors(seen)

    def type(self, seen: Visible) -> Iterator[Offer]:
        """A dtype, or behind its bracket dims."""
        before, config = self.before(), self.workspace.config(self.path)
        if "[" in before:
            yield from self.values(seen)
            return
        for name, dtype in config.dtypes.items() if config is not None else ():
            yield Offer(name if "{" in before else f"{{{name}}}", "dtype", dtype, label=name)
        if "{" not in before:
            yield from (Offer(name, "dtype", f"{_bytes_of(name)} bytes") for name in DTYPE_BYTES)


def _is_item_start(way: list[nodes.Step]) -> bool:
    """Whether the last word of a way may begin an item: an entry of a body or branch, or a key of one without a keyword."""
    last = way[-1]
    if (not last.in_key and last.node.kind != "text") or len(way) < 2:
        return False
    entry = way[-2] if last.in_key else last
    if last.in_key and nodes.keyword_of(entry.node) is not None:
        return False
    around = [step.key.value if step.key is not None else None for step in way[1 : way.index(entry) + 1]]
    name = around[-1] if around else ""
    return name in ("then", "else") or (name is None and len(around) > 1 and around[-2] in ("body", "then", "else"))


def _keywords() -> Iterator[Offer]:
    for keyword in KEYWORDS:
        rule = schema()["definitions"][keyword]["properties"][keyword]
        yield Offer(keyword, "keyword", doc=rule.get("description", ""))


def _operands(definition: OpDef, key: str, given: set[str]) -> Iterator[Offer]:
    """The operands or params of an op that an item does not give yet."""
    if key == "attrs":
        for name, default in definition.params.items():
            if name not in given:
                yield Offer(name, "param", str(default))
        return
    known = {"in": definition.inputs, "out": definition.outputs, "modes": definition.operands}[key]
    for operand in known:
        if operand.name not in given:
            yield Offer(operand.name, "operand", str(operand))


def _type_of(operand: Operand) -> str:
    dtype = operand.dtype.split("|")[0].strip()
    return f"{dtype}[{', '.join(dim for dim in operand.dims if dim != '...')}]"


def _kind_text(rule: Mapping[str, Any]) -> str:
    kinds = rule.get("type", "")
    return " or ".join(kinds) if isinstance(kinds, list) else str(kinds)


def _shortened(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _bytes_of(dtype: str) -> str:
    return f"{DTYPE_BYTES[dtype]:g}"
