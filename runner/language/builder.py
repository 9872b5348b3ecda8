"""A checked tree of nodes becomes a frozen `Graph`: ids are made unique, texts are parsed so that loading tells their errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from runner.base.errors import Diagnostic, GraphError, Mark
from runner.language.expressions import parse
from runner.language.graph import EVERY, Alloc, Declaration, For, Graph, Item, Op, Scope, Seen, Shared, Switch, Text, Use
from runner.language.notation import parse_binding, parse_region, parse_type, split_output
from runner.language.yaml_source import Node, Source

KEYWORDS = ("op", "alloc", "view", "scope", "for", "if", "switch", "use")


@dataclass(slots=True)
class Ids:
    """The ids taken under one path; loops over the same variable and branches of one body share it."""

    explicit: dict[str, Mark] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    inner: dict[str, Ids] = field(default_factory=dict)

    def below(self, name: str) -> Ids:
        return self.inner.setdefault(name, Ids())

    def fork(self) -> Ids:
        """For one branch of a switch: branches exclude each other, so that each may take the same ids."""
        return Ids(dict(self.explicit), dict(self.counts), {name: ids.fork() for name, ids in self.inner.items()})

    def free(self, default: str) -> str:
        """The default, with a number behind it where that is taken."""
        while True:
            self.counts[default] = count = self.counts.get(default, 0) + 1
            name = default if count == 1 else f"{default}_{count}"
            if name not in self.explicit:
                return name

    def merge(self, other: Ids) -> None:
        self.explicit |= other.explicit
        for name, count in other.counts.items():
            self.counts[name] = max(count, self.counts.get(name, 0))
        for name, ids in other.inner.items():
            self.below(name).merge(ids)


def text_of(node: Node) -> Text:
    return Text(node.value, node.mark)


def _texts(node: Node | None) -> dict[str, Text]:
    return {key.value: text_of(value) for key, value in node.value} if node else {}


def _names(node: Node | None) -> tuple[Text, ...]:
    """A name, or a list of them."""
    if node is None:
        return ()
    return (text_of(node),) if node.kind == "text" else tuple(map(text_of, node.value))


def _doc(node: Node) -> str:
    doc = node.get("doc")
    return doc.value.strip() if doc else ""


class GraphBuilder:
    """Builds one graph; `problems` collects what is wrong, and looks no further when there are more than `most`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.problems: list[Diagnostic] = []

    def build(self, source: Source, file: str) -> Graph:
        root = source.root
        assert root is not None, "an unusable file is no graph"
        taken: dict[str, Mark] = {}
        sections = {name: self.declarations(root.get(name), taken) for name in ("inputs", "weights", "state", "outputs")}
        params = _texts(root.get("params"))
        for text in params.values():
            self.expression(text)
        name, body, deploy = root.get("graph"), root.get("body"), root.get("deploy")
        assert name is not None and body is not None, "the schema requires them"
        items = self.body(body, Ids())
        said = text_of(deploy) if deploy else None
        comments = tuple([Text(text, mark) for mark, text in source.comments])
        texts = {"lines": source.lines, "comments": comments, "share": self.share(root.get("share"), {})}
        return Graph(name.value, file, name.mark, items, _doc(root), params, **sections, deploy=said, **texts)

    def attempt(self, parser: Callable[[Text], object], text: Text) -> None:
        if len(self.problems) > self.most:
            return
        try:
            parser(text)
        except GraphError as error:
            self.problems += error.diagnostics

    def expression(self, text: Text) -> None:
        self.attempt(lambda t: parse(t.value, t.mark), text)

    def declarations(self, section: Node | None, taken: dict[str, Mark]) -> Mapping[str, Declaration]:
        found: dict[str, Declaration] = {}
        for key, value in section.value if section else ():
            declaration = self.declaration(key, value)
            found[key.value] = declaration
            if key.value in taken:
                self.again(f"'{key.value}'", "declared", key.mark, taken[key.value])
            taken[key.value] = key.mark
        return found

    def again(self, what: str, verb: str, mark: Mark, first: Mark) -> None:
        self.problems.append(Diagnostic("G205", f"{what} is {verb} twice, first in line {first.line}", mark, related=(first,)))

    def declaration(self, key: Node, value: Node) -> Declaration:
        if value.kind == "text":
            spec, source, stack, shard = text_of(value), None, None, None
        else:
            given = {name: value.get(name) for name in ("type", "from", "stack", "shard")}
            assert given["type"] is not None, "the schema requires it"
            spec = text_of(given["type"])
            source = text_of(given["from"]) if given["from"] else None
            stack = given["stack"].value if given["stack"] else None
            shard = int(given["shard"].value) if given["shard"] else None
        self.attempt(parse_type, spec)
        return Declaration(key.value, spec, key.mark, source, stack, shard)

    def share(self, section: Node | None, taken: dict[str, Mark]) -> tuple[Shared, ...]:
        """Entries of `share:`; in all lists of a graph together a name stands once."""
        found: list[Shared] = []
        for entry in section.value if section else ():
            pairs = ((entry, None),) if entry.kind == "text" else entry.value
            for key, value in pairs:
                if key.value in taken:
                    self.again(f"'{key.value}'", "listed", key.mark, taken[key.value])
                taken[key.value] = key.mark
                given = value if value is not None and value.kind == "map" else None
                replaces = value if given is None else given.get("replaces")
                copies = given.get("copies") if given is not None else None
                counts = ((name.value, number) for name, number in copies.value) if copies and copies.kind == "map" else ()
                numbers = {name: int(number.value) for name, number in counts}
                numbers = {EVERY: int(copies.value)} if copies and copies.kind != "map" else numbers
                inside = given.get("share") if given is not None else None
                entries = None if inside is None else self.share(inside, taken)
                apart = _names(given.get("apart")) if given is not None else ()
                ring = given.get("ring") if given is not None else None
                num = int(ring.value) if ring is not None else 0
                found.append(Shared(key.value, key.mark, _names(replaces), numbers, entries, apart, num))
        return tuple(found)

    # --- items ---

    def body(self, node: Node, ids: Ids) -> tuple[Item, ...]:
        return tuple(self.item(item, ids) for item in node.value)

    def branch(self, node: Node | None, ids: Ids) -> tuple[Item, ...]:
        if node is None:
            return ()
        return self.body(node, ids) if node.kind == "list" else (self.item(node, ids),)

    def item(self, node: Node, ids: Ids) -> Item:
        keyword = next(name for name in KEYWORDS if node.get(name))
        head = node.get(keyword)
        assert head is not None
        return getattr(self, f"_{keyword}")(node, head, ids)

    def id(self, node: Node, default: str, ids: Ids) -> str:
        """The item's own id, which must be free, or the default with a number behind it when that is taken."""
        given = node.get("id")
        if given is None:
            return ids.free(default)
        name = given.value
        if name in ids.explicit or ids.counts.get(name):
            self.again(f"id '{name}'", "taken", given.mark, ids.explicit.get(name, node.mark))
        ids.explicit[name] = given.mark
        return name

    def _op(self, node: Node, head: Node, ids: Ids) -> Op:
        inputs, given, attrs = (_texts(node.get(key)) for key in ("in", "out", "attrs"))
        for text in inputs.values():
            self.attempt(parse_region, text)
        for text in attrs.values():
            self.expression(text)
        outputs = {name: self.output(name, text) for name, text in given.items()}
        after, wait_only, device = node.get("after"), node.get("after_wait_only"), node.get("device")
        return Op(
            text_of(head),
            self.id(node, head.value, ids),
            node.mark,
            inputs,
            outputs,
            attrs,
            tuple(map(text_of, after.value)) if after else (),
            _doc(node),
            device.value if device else None,
            tuple(map(text_of, wait_only.value)) if wait_only else (),
            _texts(node.get("modes")),
        )

    def output(self, operand: str, text: Text) -> Declaration | Text:
        created = split_output(operand, text)
        if created is None:
            self.attempt(parse_region, text)
            return text
        name, spec = created
        self.attempt(parse_type, spec)
        return Declaration(name, spec, text.mark)

    def _alloc(self, node: Node, head: Node, ids: Ids) -> Alloc:
        tensors = tuple(self.declaration(key, value) for key, value in head.value)
        return Alloc(tensors, node.mark, _doc(node), self.id(node, "alloc", ids))

    def _view(self, node: Node, head: Node, ids: Ids) -> Seen:
        of, kind = node.get("of"), node.get("type")
        assert of is not None and kind is not None, "the schema requires them"
        self.attempt(parse_region, text_of(of))
        self.attempt(parse_type, text_of(kind))
        return Seen(head.value, text_of(of), text_of(kind), node.mark, _doc(node))

    def _scope(self, node: Node, head: Node, ids: Ids) -> Scope:
        body, mode = node.get("body"), node.get("mode")
        assert body is not None
        return Scope(head.value, self.body(body, ids.below(head.value)), node.mark, mode.value if mode else "auto", _doc(node))

    def _for(self, node: Node, head: Node, ids: Ids) -> For:
        trips, maximum, body = node.get("range"), node.get("max"), node.get("body")
        assert trips is not None and body is not None
        for text in (trips, maximum):
            if text is not None:
                self.expression(text_of(text))
        items = self.body(body, ids.below(head.value))
        bound = text_of(maximum) if maximum else None
        return For(head.value, text_of(trips), items, node.mark, bound, _doc(node), _texts(node.get("carry")))

    def _if(self, node: Node, head: Node, ids: Ids) -> Switch:
        return self.choice("if", head, {1: node.get("then"), 0: node.get("else")}, node.mark, ids)

    def _switch(self, node: Node, head: Node, ids: Ids) -> Switch:
        cases = node.get("cases")
        assert cases is not None
        return self.choice(
            "switch",
            head,
            {None if key.value == "default" else int(key.value): value for key, value in cases.value},
            node.mark,
            ids,
        )

    def choice(self, keyword: str, head: Node, branches: Mapping[int | None, Node | None], mark: Mark, ids: Ids) -> Switch:
        self.expression(text_of(head))
        cases, forks = {}, []
        for value, branch in branches.items():
            forks.append(ids.fork())
            cases[value] = self.branch(branch, forks[-1])
        for fork in forks:
            ids.merge(fork)
        return Switch(text_of(head), cases, mark, keyword)

    def _use(self, node: Node, head: Node, ids: Ids) -> Use:
        bindings = _texts(node.get("with"))
        for text in bindings.values():
            self.attempt(parse_binding, text)
        return Use(text_of(head), self.id(node, head.value, ids), node.mark, bindings, _doc(node))
