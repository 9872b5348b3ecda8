"""Random graphs, spelled in random styles: what people's editors, generators and habits make of YAML.

`random_graph` gives a graph as plain data, `spelled` its text. Every tensor that is made is read, so that lint has nothing to
say. Every comment holds a number of its own, so that a test can tell whether one was lost.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

Item = dict[str, Any]


# --- graphs -----------------------------------------------------------------------------------------------------------


@dataclass
class _Maker:
    """Makes items. `unread` are names that nothing has read so far; sizes are in KiB. `left` bounds how many bodies there are."""

    rng: random.Random
    is_stage: bool = False
    left: int = 3
    names_ops: bool = True
    numbers: Iterator[int] = field(default_factory=count)

    def name(self, stem: str) -> str:
        return f"{stem}{next(self.numbers)}"

    def spec(self, rows: int | None = None) -> str:
        return f"f32[{rows or self.rng.randint(1, 12)}, 256]"

    def join(self, a: str, b: str, out: str) -> Item:
        item: Item = {"op": "join", "in": {"a": a, "b": b}, "out": {"y": out}}
        if self.rng.random() < 0.3:
            item["doc"] = self.rng.choice(("First pass over all rows.", "Two lines, it says:\nthis is # no comment.", "A - b: c"))
        return item

    def new(self, a: str, b: str, unread: list[str], rows: int | None = None) -> Item:
        made = self.name("t")
        unread.append(made)
        return self.join(a, b, f"{made}: {self.spec(rows)}")

    def straight(self, visible: list[str], unread: list[str]) -> list[Item]:
        a = unread.pop(self.rng.randrange(len(unread))) if unread else self.rng.choice(visible)
        item = self.new(a, self.rng.choice(visible), unread)
        visible.append(unread[-1])
        if self.names_ops and self.rng.random() < 0.25:
            item["id"] = self.name("own_")
        return [item]

    def end(self, visible: list[str], unread: list[str], out: str) -> list[Item]:
        """Reads all that is unread, and writes `out`, a tensor that is there or a new one."""
        items = []
        while len(unread) > 2:
            items.append(self.new(unread.pop(0), unread.pop(0), unread))
        names = [*unread, self.rng.choice(visible), self.rng.choice(visible)]
        unread.clear()
        return [*items, self.join(names[0], names[1], out)]

    def body(self, visible: list[str], depth: int, out: str, given: Sequence[str] = ()) -> list[Item]:
        """Items that end with one that writes `out`, and that read what is `given`."""
        visible, unread = [*visible, *given], list(given)
        items: list[Item] = []
        for _ in range(self.rng.randint(1, 3 if depth else 5)):
            inner = ("scope", "scope", "scope", "chain", "chain", "loop", "twice", "carry", "dynamic", "branch", "use", "use")
            kind = self.rng.choice(("straight", "straight", "straight", *inner))
            no_use = self.is_stage or not self.names_ops
            if depth >= 3 or self.left <= 0 or (no_use and kind in ("dynamic", "use", "chain")):
                kind = "straight"
            self.left -= kind not in ("straight", "use")
            items += getattr(self, kind)(visible, unread, *(() if kind == "straight" else (depth,)))
        return items + self.end(visible, unread, out)

    def scope(self, visible: list[str], unread: list[str], depth: int) -> list[Item]:
        made, name = self.name("s"), self.name("scope_")
        body = self.body(visible, depth + 1, made)
        if self.rng.random() < 0.2:  # an alloc in the middle of a body
            early = self.name("e")
            at = self.rng.randint(0, len(body) - 1)
            reader = self.join(early, early, body[-1]["out"]["y"])
            body[-1]["out"]["y"] = early
            body = [*body[:at], {"alloc": {early: self.spec()}}, *body[at:], reader]
        scope = {"scope": name, "body": body}
        if self.rng.random() < 0.2:
            scope["mode"] = "auto"
        visible.append(made)
        unread.append(made)
        return [{"alloc": {made: self.spec(2)}}, scope]

    def chain(self, visible: list[str], unread: list[str], depth: int) -> list[Item]:
        """A scope that says all its edges, so that any mode will do, with a scope around it or not."""
        made, state, body = self.name("s"), visible[0], list[Item]()
        for _ in range(self.rng.randint(1, 3)):
            item = {**self.new(state, visible[0], [state]), "id": self.name("link_")}
            state = item["out"]["y"].partition(":")[0]
            body.append(item | ({"after": [body[-1]["id"]]} if body else {}))
        body.append(self.join(state, visible[0], made) | {"after": [body[-1]["id"]]})
        if self.rng.random() < 0.3:
            early = body[0]["out"]["y"].partition(":")[0]
            body[0]["out"]["y"] = early
            body.insert(0, {"alloc": {early: self.spec()}})
        mode = self.rng.choice(("", "auto", "manual"))
        scope: Item = {"scope": self.name("chain_"), "body": body} | ({"mode": mode} if mode else {})
        if self.rng.random() < 0.6:
            scope = {"scope": self.name("outer_"), "body": [scope]}
        reader = self.new(made, visible[0], unread) | {"after": [scope["scope"]]}
        visible.append(unread[-1])
        return [{"alloc": {made: self.spec(2)}}, scope, reader]

    def loop(self, visible: list[str], unread: list[str], depth: int) -> list[Item]:
        made, trips = self.name("r"), self.rng.randint(1, 3)
        variable = self.name("i")
        body = self.body(visible, depth + 1, f"{made}[{variable} : {variable} + 1]")
        visible.append(made)
        unread.append(made)
        return [{"alloc": {made: self.spec(trips)}}, {"for": variable, "range": trips, "body": body}]

    def twice(self, visible: list[str], unread: list[str], depth: int) -> list[Item]:
        """Two loops with one body, which the second may name by an alias."""
        before, self.names_ops = self.names_ops, False
        items = self.loop(visible, unread, depth)
        self.names_ops = before
        return [*items, dict(items[1])]

    def carry(self, visible: list[str], unread: list[str], depth: int) -> list[Item]:
        """A tensor that is handed on from trip to trip, allocated at the top of the body or made by its last op."""
        state, after, rows = self.name("c"), self.name("n"), self.rng.randint(1, 6)
        body = self.body(visible, depth + 1, after if self.rng.random() < 0.5 else f"{after}: {self.spec(rows)}", [state])
        if body[-1]["out"]["y"] == after:
            body.insert(self.rng.choice((0, 0, len(body) - 1)), {"alloc": {after: self.spec(rows)}})
        first = self.join(visible[0], visible[0], f"{state}: {self.spec(rows)}")
        visible.append(state)
        unread.append(state)
        return [first, {"for": self.name("i"), "range": self.rng.randint(1, 3), "carry": {state: after}, "body": body}]

    def dynamic(self, visible: list[str], unread: list[str], depth: int) -> list[Item]:
        made, variable = self.name("d"), self.name("i")
        first = self.join(visible[0], visible[0], f"{made}: {self.spec(3)}")
        body = self.body(visible, depth + 1, f"{made}[{variable} : {variable} + 1]")
        visible.append(made)
        unread.append(made)
        return [first, {"for": variable, "range": "n[0]", "max": 3, "body": body}]

    def branch(self, visible: list[str], unread: list[str], depth: int) -> list[Item]:
        made, rows = self.name("m"), self.rng.randint(1, 6)
        one, other = (self.body(visible, depth + 1, f"{made}: {self.spec(rows)}") for _ in range(2))
        visible.append(made)
        unread.append(made)
        taken = self.rng.choice(("1 < 2", "2 < 1"))
        return [{"if": taken, "then": one[0] if len(one) == 1 else one, "else": other}]

    def use(self, visible: list[str], unread: list[str], depth: int) -> list[Item]:
        made = self.name("u")
        items: list[Item] = [{"alloc": {made: self.spec(4)}}]
        items.append({"use": "stage", "id": self.name("stage_"), "with": {"rows": self.rng.choice(visible[:1]), "y": made}})
        visible.append(made)
        unread.append(made)
        return items


def random_graph(rng: random.Random, name: str = "made") -> Item:
    """A graph with an input `x`, a number of trips `n`, and an output `z`."""
    maker = _Maker(rng)
    body = maker.body(["x"], 0, "z")
    own = [item for item in body if "id" in item and "op" in item]
    for item in body[1:]:
        before = [one["id"] for one in own if body.index(one) < body.index(item)]
        if "op" in item and before and rng.random() < 0.4:
            item["after"] = [rng.choice(before)]
    inputs = {"x": "f32[4, 256]"} | ({"n": "i32[1]"} if "n[0]" in str(body) else {})
    return {"graph": name, "inputs": inputs, "outputs": {"z": "f32[4, 256]"}, "body": body}


def random_stage(rng: random.Random) -> Item:
    """The graph that `use: stage` means."""
    maker = _Maker(rng, is_stage=True, left=1)
    return {
        "graph": "stage",
        "inputs": {"rows": "f32[4, 256]"},
        "outputs": {"y": "f32[4, 256]"},
        "body": maker.body(["rows"], 1, "y"),
    }


# --- spelling ---------------------------------------------------------------------------------------------------------


@dataclass
class Style:
    """How a file is spelled; numbers are probabilities, or columns."""

    rng: random.Random
    flow: float
    comments: float
    step: int
    hang: int
    dash: str
    numbers: Iterator[int] = field(default_factory=count)
    anchors: dict[int, str] = field(default_factory=dict)
    """Anchors of bodies that are spelled, by id."""

    @classmethod
    def random(cls, rng: random.Random) -> Style:
        dash = rng.choice(("- ", "- ", "- ", "-   ", "-\n", "mixed"))
        return cls(
            rng, rng.choice((0, 0.1, 0.4)), rng.choice((0, 0.2, 0.5)), rng.choice((2, 2, 3, 4)), rng.choice((0, 2, 4)), dash
        )

    def comment(self) -> str:
        words = self.rng.choice(("of course", "- scope: no", "{a: b", "tab\there", "'quoted", "café ☕", "#########"))
        return f"# {next(self.numbers)}: {words}"

    def trailing(self) -> str:
        return self.rng.choice((" ", "   ", "\t")) + self.comment() if self.rng.random() < self.comments / 2 else ""

    def between(self, column: int) -> list[str]:
        """Lines that may stand anywhere between lines of a block."""
        lines = []
        while self.rng.random() < self.comments:
            at = self.rng.choice((0, max(0, column - 2), column, column, column + 3, self.rng.randint(0, column + 6)))
            lines.append(self.rng.choice((" " * at + self.comment(), " " * at + self.comment(), "", "   ")))
        return lines

    # --- values ---

    def scalar(self, value: Any) -> str:
        text = str(value)
        plain = not isinstance(value, str) or (not any(c in text for c in ":#{}[],&*") and text not in ("n", "y"))
        kinds = ["plain"] * 3 * plain + ["double", "single"]
        kind = self.rng.choice(kinds) if isinstance(value, str) else "plain"
        return {"plain": text, "double": '"' + text.replace("\n", "\\n") + '"', "single": f"'{text}'"}[kind]

    def inline(self, value: Any) -> str:
        """A value in brackets, on one line."""
        if isinstance(value, dict):
            pairs = [f"{key}: {self.inline(one)}" for key, one in self.ordered(value).items()]
            return "{" + self.rng.choice(("", " ")) + ", ".join(pairs) + self.rng.choice(("", " ", ",")) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(self.inline, value)) + self.rng.choice(("", "", " ", ",")) + "]"
        return self.one_line(self.scalar(value), value)

    def one_line(self, text: str, value: Any) -> str:
        return '"' + str(value).replace("\n", "\\n") + '"' if "\n" in text else text

    def ordered(self, item: Item) -> Item:
        """Keys in another order, now and then."""
        keys = list(item)
        if self.rng.random() < 0.15:
            self.rng.shuffle(keys)
        return {key: item[key] for key in keys}

    def broken(self, text: str) -> list[str]:
        """Brackets over several lines, at any column but the first; no quoted text is parted."""
        lines, quote, start = [], "", 0
        for at, char in enumerate(text):
            if char in "\"'" and quote in ("", char):
                quote = "" if quote else char
            if char in ",[" and not quote and self.rng.random() < 0.3 and at + 1 < len(text):
                lines.append(text[start : at + 1] + self.trailing())
                start = at + 1
        lines.append(text[start:])
        return [lines[0], *(" " * self.rng.randint(1, 12) + line.lstrip() for line in lines[1:])]

    def doc(self, text: str, column: int) -> list[str]:
        """A description in one of YAML's ways to write text; `column` is that of its key."""
        pad = " " * (column + self.rng.randint(1, 4))
        kind = self.rng.choice(("plain", "double", "single", "|", "|-", ">", "|+", "|2", "escaped"))
        words = text.split(" ")
        if kind in ("|", "|-", ">", "|+"):
            tail = ["", pad + "  "] if kind == "|+" else []
            return [kind + self.trailing(), *(pad + line for line in text.split("\n")), pad + "    deeper # not a comment", *tail]
        if kind == "|2":
            return [kind, *(" " * (column + 2) + "  " + line for line in text.split("\n"))]
        shallow = self.rng.choice((pad, " ", " " * column + "   "))
        if kind == "escaped":
            return ['"' + words[0] + " \\", shallow + "\\  " + " ".join(words[1:]).replace("\n", "\\n") + '"']
        if kind == "double":
            return ['"' + words[0], shallow + " ".join(words[1:]).replace("\n", "\\n") + '"']
        if kind == "single":
            return ["'" + words[0], "", shallow + " ".join(words[1:]).replace("\n", " ") + "'"]
        return ["Plain words", pad + "that go on", pad + "here"]

    # --- blocks ---

    def mapping(self, item: Item, column: int) -> list[str]:
        lines: list[str] = []
        for key, value in self.ordered(item).items():
            lines += self.between(column) if lines else []
            pad = " " * column
            if key == "doc":
                first, *rest = self.doc(value, column)
                lines += [f"{pad}doc: {first}", *rest]
            elif key == "body" and id(value) in self.anchors and self.rng.random() < 0.7:
                lines.append(f"{pad}{key}: *{self.anchors[id(value)]}{self.trailing()}")
            elif isinstance(value, list) and key != "after":
                lines += self.listed(key, value, column)
            elif isinstance(value, dict) and self.rng.random() < (0.9 if key in ("then", "else") else 0.3):
                lines += [f"{pad}{key}:{self.trailing()}", *self.mapping(value, column + self.step)]
            elif isinstance(value, (dict, list)):
                first, *rest = self.broken(self.inline(value)) if self.rng.random() < 0.2 else [self.inline(value)]
                lines += [f"{pad}{key}: {first}", *rest]
                lines[-1] += self.trailing()
            else:
                lines.append(f"{pad}{key}: {self.one_line(self.scalar(value), value)}{self.trailing()}")
        return lines

    def listed(self, key: str, items: list[Item], column: int) -> list[str]:
        pad = " " * column
        if self.rng.random() < self.flow:
            first, *rest = self.broken(self.inline(items)) if self.rng.random() < 0.5 else [self.inline(items)]
            return [f"{pad}{key}: {first}", *rest]
        anchor = ""
        if key == "body" and self.rng.random() < 0.3:
            self.anchors[id(items)] = f"b{next(self.numbers)}"
            anchor = f" &{self.anchors[id(items)]}"
        lines = [f"{pad}{key}:{anchor}{self.trailing()}"]
        at = column + (self.hang if column or self.hang != 4 else 2)
        for item in items:
            lines += self.between(at)
            lines += self.entry(item, at)
        return lines

    def entry(self, item: Item, column: int) -> list[str]:
        """An item with its dash."""
        pad, dash = " " * column, self.dash
        if dash == "mixed":
            dash = self.rng.choice(("- ", "-   ", "-\n"))
        if self.rng.random() < (max(self.flow, 0.15) if "scope" in item else self.flow):
            first, *rest = self.broken(self.inline(item)) if self.rng.random() < 0.3 else [self.inline(item)]
            return [f"{pad}- {first}", *rest]
        if dash == "-\n":
            return [f"{pad}-{self.trailing()}", *self.mapping(item, column + self.rng.randint(1, 4))]
        anchor = f"&a{next(self.numbers)} " if self.rng.random() < 0.2 else ""
        lines = self.mapping(item, column + len(dash))
        if anchor and dash == "- ":
            return [f"{pad}- {anchor.strip()}{self.trailing()}", *lines]
        return [pad + dash + lines[0][column + len(dash) :], *lines[1:]]


def spelled(graph: Item, rng: random.Random) -> bytes:
    """A graph's text in a random style."""
    style = Style.random(rng)
    lines = [*style.between(0), *style.mapping(graph, 0), *style.between(0)]
    if rng.random() < 0.1:
        lines.insert(0, "---")
    text = "\n".join(lines) + rng.choice(("\n", "\n", "", "\n\n"))
    text = _with_aliases(text, rng)
    if rng.random() < 0.2:
        text = text.replace("\n", "\r\n")
    return (b"\xef\xbb\xbf" if rng.random() < 0.1 else b"") + text.encode("utf-8")


def _with_aliases(text: str, rng: random.Random) -> str:
    """Anchors and aliases for the type of tensors that an alloc or a declaration names."""
    spec = '"f32[4, 256]"'
    if rng.random() < 0.3 and text.count(f": {spec}") > 1:
        head, _, tail = text.partition(f": {spec}")
        text = f"{head}: &spec {spec}" + tail.replace(f": {spec}", ": *spec")
    return text
