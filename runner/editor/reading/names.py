"""The names of one graph file: what each stands for, where that is made, and where it is named. Nothing is evaluated."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from runner.base.tensor_spec import DTYPE_BYTES
from runner.editor.reading.sharing import Made, Naming
from runner.editor.reading.symbols import Finder, Frame, Implicit, Interface, Key, Occurrence, Symbol, Visible
from runner.editor.reading.text import Text
from runner.language.builder import KEYWORDS, Ids
from runner.language.yaml_source import Node

SECTIONS = ("inputs", "weights", "state", "outputs")
_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*|'[^']*'|\"[^\"]*\"")
_NO_NAMES = frozenset({"and", "or", "not", "if", "else", "ceil", "floor", "min", "max", "log", "True", "False", "in", "is"})
_CREATES = re.compile(r"\s*([A-Za-z_]\w*)\s*:")
_TYPE_START = re.compile(r"\s*(\{|(" + "|".join(DTYPE_BYTES) + r")\s*\[)")
_PARAM = re.compile(r"\s*\{\s*(\w+)\s*\}")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


@dataclass
class Index:
    """The occurrences of a file by place, what `use`s take without naming it, and the items with what is visible before each."""

    file: str
    occurrences: list[Occurrence] = field(default_factory=list)
    implicit: list[Implicit] = field(default_factory=list)
    visible: dict[int, Visible] = field(default_factory=dict)
    uses: list[tuple[Node, str]] = field(default_factory=list)
    bound: dict[tuple[int, str], Key] = field(default_factory=dict)
    """What the file's uses, by number, give for a name of the used graph, where that is a name."""
    made: Made = field(default_factory=Made)

    def at(self, offset: int) -> Occurrence | None:
        """What is named at an offset, or directly before it; of several, the shortest text."""
        found = [each for each in self.occurrences if each.start <= offset <= each.end]
        return min(found, key=lambda each: (each.end - each.start, offset == each.end), default=None)

    def of(self, key: Key) -> Iterator[Occurrence]:
        return (each for each in self.occurrences if each.symbol.key == key)


def interface(root: Node, file: str) -> Interface:
    """What a graph takes and makes, by the sections of its file; a value's text is its default or type."""
    found: dict[str, dict[str, str]] = {}
    for section in ("params", *SECTIONS):
        found[section] = {}
        for key, value in _pairs(root.get(section)):
            spec = value if value.kind == "text" else value.get("type")
            found[section][key.value] = spec.value if spec is not None and spec.kind == "text" else ""
    return Interface(file, found, root)


def index(root: Node, text: Text, real: str, values: Collection[str], used: Finder, marked: Collection[int] = ()) -> Index:
    """The names of a file whose real path is `real`. `values` are names of the configuration; for the nodes `marked` (by `id`)
    `Index.visible` says what is visible there."""
    found = _Indexer(text, real, values, used, frozenset(marked))
    found.graph(root)
    found.index.occurrences.sort(key=lambda each: (each.start, each.end))
    return found.index


def creates(text: str) -> bool:
    """Whether the text of an output makes a tensor."""
    return _CREATES.match(text) is not None or _TYPE_START.match(text) is not None


def is_name(text: str) -> bool:
    return text.isidentifier() and text.isascii()


def _pairs(node: Node | None) -> tuple[tuple[Node, Node], ...]:
    """The entries of a map whose keys are texts."""
    return tuple(pair for pair in node.value if pair[0].kind == "text") if node is not None and node.kind == "map" else ()


def _text(node: Node | None) -> bool:
    return node is not None and node.kind == "text"


class _Indexer:
    def __init__(self, text: Text, real: str, values: Collection[str], used: Finder, marked: Collection[int]):
        self.text, self.real, self.values, self.used, self.marked = text, real, values, used, marked
        self.index = Index(text.file)
        self.after: list[tuple[Node, Frame]] = []
        self.num = 0
        self.outside: dict[Key, Symbol] = {}

    # --- noting ---

    def note(self, node: Node, symbol: Symbol, part: tuple[int, int] | None = None, is_definition: bool = False, form: str = ""):
        """A node's text, or a part of it, names a symbol; what does not stand in the file like that is left out."""
        lo, hi = part or (0, len(node.value))
        start = self.text.offset(node.mark)
        if hi > lo and self.text.value[start : start + hi] == node.value[:hi]:
            self.index.occurrences.append(Occurrence(start + lo, start + hi, symbol, is_definition, form))

    def outer(self, kind: str, *names: str) -> Symbol:
        """What is made elsewhere: an op, a value of the configuration, a name of another graph."""
        key = (kind, *names)
        return self.outside.setdefault(key, Symbol(kind, names[-1], key))

    def local(self, kind: str, name: str) -> Symbol:
        self.num += 1
        return Symbol(kind, name, ("local", self.real, str(self.num)))

    def define(self, frame: Frame, name: str, kind: str, spec: str, is_member: bool = False) -> Symbol:
        """The tensor `name` of a frame: the one that it has, or a new one."""
        symbol = frame.names.get(name)
        if symbol is None:
            symbol = Symbol(kind, name, ("member", self.real, name)) if is_member else self.local(kind, name)
            frame.names[name] = symbol
        symbol.spec = spec or symbol.spec
        return symbol

    # --- texts ---

    def names_in(self, node: Node, frame: Frame, begin: int = 0, with_tensors: bool = False, end: int | None = None) -> None:
        """The names of an expression, which is a node's text or a part of it."""
        for found in _NAME.finditer(node.value, begin, len(node.value) if end is None else end):
            name = found[0]
            if name[0] in "'\"" or name in _NO_NAMES:
                continue
            symbol = frame.variable(name)
            if symbol is None and name not in self.values and with_tensors and (tensor := self.tensor(frame, name)):
                self.note(node, tensor[0], found.span(), form=tensor[1])
                continue
            self.note(node, symbol or self.outer("value", name), found.span())

    def tensor(self, frame: Frame, name: str) -> tuple[Symbol, str] | None:
        """What a name of a tensor stands for, and the form in which it names that."""
        symbol = frame.tensor(name)
        if symbol is not None:
            return symbol, ""
        weight = frame.tensor(name.removesuffix("_scale")) if name.endswith("_scale") else None
        return (weight, "scale") if weight is not None and weight.has_scale else None

    def region(self, node: Node | None, frame: Frame) -> Symbol | None:
        """Notes the names of a region, and gives its tensor."""
        found = re.match(r"\s*([A-Za-z_]\w*)", node.value) if node is not None and node.kind == "text" else None
        if node is None or found is None:
            return None
        tensor, form = self.tensor(frame, found[1]) or (self.outer("unknown", found[1]), "")
        self.note(node, tensor, found.span(1), form=form)
        self.names_in(node, frame, found.end())
        return tensor

    def type(self, node: Node | None, frame: Frame, begin: int = 0) -> str:
        """Notes the names of a type, and gives its text."""
        if node is None or node.kind != "text":
            return ""
        param = _PARAM.match(node.value, begin)
        if param is not None:
            self.note(node, self.outer("dtype", param[1]), param.span(1))
        at = node.value.find("[", begin)
        if at >= 0:
            self.names_in(node, frame, at)
        return node.value[begin:].strip()

    def source(self, node: Node | None, stack: Node | None, frame: Frame) -> None:
        for found in _PLACEHOLDER.finditer(node.value) if node is not None and node.kind == "text" else ():
            if stack is None or found[1].strip() != stack.value:
                self.names_in(node, frame, found.start(1), end=found.end(1))  # type: ignore[arg-type]

    # --- the graph ---

    def graph(self, root: Node) -> None:
        frame = Frame()
        name, deploy = root.get("graph"), root.get("deploy")
        if name is not None and name.kind == "text":
            self.note(name, self.outer("graph", self.real), is_definition=True)
        if deploy is not None and deploy.kind == "text":
            self.note(deploy, self.outer("deploy", deploy.value))
        for key, value in _pairs(root.get("params")):
            symbol = Symbol("param", key.value, ("member", self.real, key.value), value.value if value.kind == "text" else "")
            frame.variables[key.value] = symbol
            self.note(key, symbol, is_definition=True)
            if value.kind == "text":
                self.names_in(value, Frame())
        for section in SECTIONS:
            for key, value in _pairs(root.get(section)):
                self.declaration(key, value, section, frame)
        body = root.get("body")
        if body is not None:
            self.body(body, frame, Ids())
        for node, where in self.after:
            self.resolve(node, where)
        Naming(self, self.index.made, interface(root, self.real)).run()

    def declaration(self, key: Node, value: Node, section: str, frame: Frame) -> None:
        if key.kind != "text":
            return
        spec = self.type(value if value.kind == "text" else value.get("type"), frame)
        symbol = self.define(frame, key.value, section.removesuffix("s"), spec, is_member=True)
        symbol.section = section
        symbol.has_scale = section == "weights" and re.match(r"\s*\{\s*wq\s*\}", spec) is not None
        self.note(key, symbol, is_definition=True)
        if value.kind == "map":
            self.source(value.get("from"), value.get("stack"), frame)

    def body(self, node: Node, frame: Frame, ids: Ids) -> None:
        for item in node.value if node.kind == "list" else (node,):
            if id(item) in self.marked:
                self.index.visible[id(item)] = self.seen(frame)
            if item.kind == "map":
                keyword = next((name for name in KEYWORDS if item.get(name)), None)
                if keyword is not None:
                    self.item(keyword, item, frame, ids)

    def seen(self, frame: Frame) -> Visible:
        tensors: dict[str, Symbol] = {}
        variables: dict[str, Symbol] = {}
        ids: dict[str, None] = {}
        for each in frame.chain():
            tensors = {**each.names, **tensors}
            variables = {**each.variables, **variables}
            ids |= dict.fromkeys(name for first, found in each.ids.items() for name in _dotted(first, found))
        scales = {f"{name}_scale": symbol for name, symbol in tensors.items() if symbol.has_scale}
        return Visible({**scales, **tensors}, variables, tuple(ids))

    def item(self, keyword: str, item: Node, frame: Frame, ids: Ids) -> None:
        head = item.get(keyword)
        assert head is not None
        match keyword:
            case "op" | "use" | "alloc" | "view":
                getattr(self, f"_{keyword}")(item, head, frame, ids)
            case "scope" if head.kind == "text":
                inner = Frame(frame)
                symbol = self.identified("scope", head, frame, inner)
                self.inside(item, inner, ids.below(head.value))
                self.note(head, symbol, is_definition=True)
            case "for" if head.kind == "text":
                self._for(item, head, frame, ids)
            case "if" | "switch":
                self._choice(keyword, item, head, frame, ids)

    def identified(self, kind: str, node: Node, frame: Frame, inner: Frame | None = None, name: str | None = None) -> Symbol:
        """The symbol of an item that `after` may name."""
        symbol = self.local(kind, node.value if name is None else name)
        symbol.inner = inner
        frame.ids.setdefault(symbol.name, []).append(symbol)
        return symbol

    def inside(self, item: Node, inner: Frame, ids: Ids) -> None:
        body = item.get("body")
        if body is not None:
            self.body(body, inner, ids)

    def id(self, item: Node, head: Node, default: str, frame: Frame, ids: Ids, inner: Frame | None = None) -> Symbol:
        """The item's id, written or not."""
        given = item.get("id")
        if given is not None and given.kind == "text":
            ids.explicit[given.value] = given.mark
            symbol = self.identified("id", given, frame, inner)
            self.note(given, symbol, is_definition=True)
            return symbol
        symbol = self.identified("id", head, frame, inner, ids.free(default))
        symbol.is_implied = True
        if head.kind == "text":
            self.note(head, symbol, is_definition=True, form="implied")
        return symbol

    # --- items ---

    def _op(self, item: Node, head: Node, frame: Frame, ids: Ids) -> None:
        if head.kind != "text":
            return
        self.note(head, self.outer("op", head.value))
        symbol = self.id(item, head, head.value, frame, ids)
        self.index.made.ops.setdefault(symbol.name, []).append((symbol, head.value, item.mark))
        for section in ("in", "out", "attrs", "modes"):
            for key, value in _pairs(item.get(section)):
                if key.kind != "text":
                    continue
                self.note(key, self.outer("attr" if section == "attrs" else "operand", head.value, key.value))
                if section == "in":
                    self.region(value, frame)
                elif section == "attrs" and value.kind == "text":
                    self.names_in(value, frame)
        created = []
        for key, value in _pairs(item.get("out")):
            if value.kind == "text" and not creates(value.value):
                self.region(value, frame)
            elif value.kind == "text":
                created.append((key, value))
        for key, value in created:
            self.created(key, value, frame)
        for name in ("after", "after_wait_only"):
            entries = item.get(name)
            self.after += [(each, frame) for each in entries.value if _text(each)] if entries and entries.kind == "list" else []

    def created(self, key: Node, value: Node, frame: Frame) -> None:
        """An output that makes a tensor."""
        named = _CREATES.match(value.value)
        spec = self.type(value, frame, named.end() if named else 0)
        symbol = self.made(frame, named[1] if named else key.value, spec)
        if named is not None:
            self.note(value, symbol, named.span(1), is_definition=True)
        else:
            self.note(key, symbol, is_definition=True, form="operand")

    def made(self, frame: Frame, name: str, spec: str) -> Symbol:
        """A tensor that has bytes of its own."""
        symbol = self.define(frame, name, "local", spec)
        self.index.made.tensors.setdefault(name, []).append(symbol)
        return symbol

    def _alloc(self, item: Node, head: Node, frame: Frame, ids: Ids) -> None:
        self.id(item, head, "alloc", frame, ids)
        for key, value in _pairs(head):
            if key.kind == "text":
                spec = self.type(value, frame)
                self.note(key, self.made(frame, key.value, spec), is_definition=True)

    def _view(self, item: Node, head: Node, frame: Frame, ids: Ids) -> None:
        self.region(item.get("of"), frame)
        spec = self.type(item.get("type"), frame)
        if head.kind == "text":
            self.note(head, self.define(frame, head.value, "local", spec), is_definition=True)

    def _for(self, item: Node, head: Node, frame: Frame, ids: Ids) -> None:
        for name in ("range", "max"):
            node = item.get(name)
            if node is not None and node.kind == "text":
                self.names_in(node, frame, with_tensors=name == "range")
        inner = Frame(frame)
        symbol = self.identified("variable", head, frame, inner)
        inner.variables[head.value] = symbol
        self.index.made.loops.setdefault(head.value, []).append(symbol)
        self.note(head, symbol, is_definition=True)
        carried = [(key, value) for key, value in _pairs(item.get("carry")) if _text(key) and _text(value)]
        for key, _ in carried:
            self.region(key, frame)
        self.inside(item, inner, ids.below(head.value))
        for _, value in carried:
            self.region(value, inner)

    def _choice(self, keyword: str, item: Node, head: Node, frame: Frame, ids: Ids) -> None:
        if head.kind == "text":
            self.names_in(head, frame, with_tensors=True)
        given = (item.get("then"), item.get("else")) if keyword == "if" else [value for _, value in _pairs(item.get("cases"))]
        forks = []
        for branch in given:
            forks.append(ids.fork())
            if branch is not None:
                self.body(branch, frame, forks[-1])
        for fork in forks:
            ids.merge(fork)

    def _use(self, item: Node, head: Node, frame: Frame, ids: Ids) -> None:
        if head.kind != "text":
            return
        found = self.used(head.value, self.text.file)
        self.index.uses.append((item, found.file if found else head.value))
        self.note(head, self.outer("graph", found.file if found else head.value))
        used = self.id(item, head, head.value, frame, ids)
        self.index.made.uses.setdefault(used.name, []).append(used)
        given = set()
        for key, value in _pairs(item.get("with")):
            if key.kind != "text":
                continue
            given.add(key.value)
            if found is not None:
                self.note(key, self.outer("member", found.file, key.value))
            if value.kind == "text" and (found is None or key.value in found.sections["params"]):
                self.names_in(value, frame, with_tensors=found is None)
                symbol = frame.variable(value.value)
            else:
                symbol = self.region(value, frame)
            if symbol is not None:
                self.index.bound[len(self.index.uses), key.value] = symbol.key
        if found is not None:
            self.taken(item, found, given, frame)

    def taken(self, item: Node, found: Interface, given: Collection[str], frame: Frame) -> None:
        """What the used graph takes by name alone."""
        for section in ("params", "inputs", "outputs"):
            for name in found.sections[section]:
                symbol = frame.variable(name) if section == "params" else frame.tensor(name)
                if name not in given and symbol is not None:
                    self.index.implicit.append(Implicit(item, len(self.index.uses), ("member", found.file, name), name, symbol))

    # --- ids ---

    def resolve(self, node: Node, frame: Frame) -> None:
        """An entry of `after`: a dotted path from an id of this body or one around."""
        parts = list(re.finditer(r"[^.]+", node.value))
        where = next((each for each in frame.chain() if parts and parts[0][0] in each.ids), None)
        for part in parts:
            found = where.ids.get(part[0], ()) if where is not None else ()
            if not found:
                self.note(node, self.outer("unknown id", part[0]), part.span())
                return
            for other in found[1:]:
                other.key = found[0].key
            self.note(node, found[0], part.span())
            where = next((each.inner for each in found if each.inner is not None), None)


def _dotted(name: str, found: list[Symbol]) -> Iterator[str]:
    yield name
    for symbol in found:
        for inner, more in symbol.inner.ids.items() if symbol.inner is not None else ():
            yield from (f"{name}.{rest}" for rest in _dotted(inner, more))
