"""What a scope edit may touch, told without the writer: from the splices, and from what a reader of YAML sees in both texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from runner.writeback.splices import Splice

# --- splices ----------------------------------------------------------------------------------------------------------

_BLANK = r"[ \t\r\n\x85\u2028\u2029]+"
_NAME = r"""(?:"[^"\n]*"|'[^'\n]*'|[\w.]+)"""
_TYPE = r"""(?:"[^"\n]*"|'[^'\n]*'|\*\w+)"""
_HEAD = rf"""["']?scope["']?\s*:\s*{_NAME}|["']?body["']?\s*:(?:\s*&\w+)?|["']?mode["']?\s*:\s*["']?(?:auto|manual)["']?"""
_ANCHOR, _SIGN = r"&\w+", r"[-{}\[\],]"
_NOTE = r"\s\s# ringgraph: ignore\[G317\]"
_ALLOC = rf"alloc:\s*(?:\{{{_NAME}: {_TYPE}(?:, {_NAME}: {_TYPE})*\}}|(?:\s+{_NAME}: {_TYPE})+)"

REMOVED = re.compile(rf"(?:{_BLANK}|{_HEAD}|{_ANCHOR}|{_SIGN})*|[\"']?(?:auto|manual)[\"']?")
BEGUN = re.compile(r"""\{?\s*["']?(?:scope|mode)["']?\s*:""")
"""A key of a head whose value goes out apart, since a comment near it keeps its line breaks."""
INSERTED = re.compile(rf"(?:{_BLANK}|{_HEAD}|{_NOTE}|{_ALLOC}|{_SIGN})*|[\"']?(?:auto|manual)[\"']?")
OUTPUT = re.compile(r"""(["']?)(\w+)\s*:\s*(\w+\[[^"'\]]*\])\1""")


def check_splices(old: bytes, splices: Sequence[Splice], new: bytes) -> None:
    """`new` is `old` with these changes, and each is of scope heads, blanks at begins of lines, or an output that an alloc makes
    instead."""
    parts, at, begun, moved, made = [], 0, "", Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for splice in splices:
        end = splice.offset + len(splice.removed)
        assert at <= splice.offset and old[splice.offset : end] == splice.removed
        parts += [old[at : splice.offset], splice.inserted]
        at = end
        removed, inserted = splice.removed.decode(), splice.inserted.decode()
        output = OUTPUT.fullmatch(removed)
        if output is not None and inserted.strip("\"'") == output[2]:
            moved[output[2], "".join(output[3].split())] += 1
            continue
        begun += removed
        if not BEGUN.fullmatch(begun):
            assert REMOVED.fullmatch(begun), begun
            begun = ""
        assert INSERTED.fullmatch(inserted), inserted
        if not (removed + inserted).strip():  # indentation
            before = old[: splice.offset].decode()
            assert not re.split(r"\r\n|[\r\n\x85\u2028\u2029]", before.removeprefix("\ufeff"))[-1].strip(), splice
        assert "\n" not in inserted or ("\r\n" in inserted) == (b"\r\n" in old), splice
        for alloc in re.findall(_ALLOC, inserted):
            pairs = re.findall(rf"({_NAME}): ({_TYPE})", alloc.partition("alloc:")[2])
            made.update((name.strip("\"'"), "".join(spec.strip("\"'").split())) for name, spec in pairs)
    assert b"".join([*parts, old[at:]]) == new
    assert moved == made, (moved, made)


# --- what a reader sees -----------------------------------------------------------------------------------------------


@dataclass
class _Reading:
    """Of a text: `gone` are places of scalars and anchors of scope heads, and `outputs` those of outputs that make a tensor,
    each with the tensor's name."""

    loader: Any
    gone: set[int] = field(default_factory=set)
    outputs: dict[int, str] = field(default_factory=dict)
    allocs: list[tuple[list[int], set[str]]] = field(default_factory=list)

    def node(self, event: Any, events: Iterator[Any]) -> list[tuple[Any, list]]:
        """Reads a node: the pairs of a mapping, each a scalar's event and what is inside its value."""
        if isinstance(event, yaml.SequenceStartEvent):
            while not isinstance(one := next(events), yaml.SequenceEndEvent):
                self.node(one, events)
        if not isinstance(event, yaml.MappingStartEvent):
            return []
        pairs = []
        while not isinstance(key := next(events), yaml.MappingEndEvent):
            value = next(events)
            pairs.append((key, value, self.node(value, events)))
        keys = {key.value for key, _, _ in pairs}
        if "scope" in keys:
            self.gone.add(event.start_mark.index)  # its anchor
            for key, value, _ in pairs:
                self.gone.update([key.start_mark.index, value.start_mark.index])
        for key, _, inside in pairs:
            if key.value == "out":
                self.output(inside)
            elif key.value == "alloc" and len(keys) == 1:
                places = [key.start_mark.index, *(one.start_mark.index for pair in inside for one in pair[:2])]
                self.allocs.append((places, {name.value for name, _, _ in inside}))
        return pairs

    def output(self, pairs: list[tuple[Any, Any, Any]]) -> None:
        for _, value, _ in pairs:
            name, colon, spec = getattr(value, "value", "").partition(":")
            if colon and "[" in spec and "[" not in name:
                self.outputs[value.start_mark.index] = name.strip()


def loader_of(text: str) -> Any:
    """The reader of YAML that takes the text: one of the two takes a tab where the other does not."""
    for loader in (yaml.CSafeLoader, yaml.SafeLoader):
        try:
            list(yaml.parse(text, Loader=loader))
            return loader
        except yaml.YAMLError:
            continue
    raise AssertionError("no reader of YAML takes the text")


_WORDS = (yaml.ScalarToken, yaml.AnchorToken, yaml.AliasToken, yaml.TagToken, yaml.DocumentStartToken, yaml.DocumentEndToken)


def kept(data: bytes, moved: set[str]) -> str:
    """All characters of a text but blanks, signs (dashes, brackets, commas, colons), scope heads and the allocs of `moved`; an
    output that makes a tensor only names it."""
    text = data.decode("utf-8-sig")
    loader = loader_of(text)
    reading = _Reading(loader)
    events: Iterator[Any] = iter(yaml.parse(text, Loader=loader))
    for event in events:
        if isinstance(event, yaml.NodeEvent):
            reading.node(event, events)
    for places, names in reading.allocs:
        if names <= moved:
            reading.gone.update(places)
    parts, end = [], 0
    for token in yaml.scan(text, Loader=loader):
        start = token.start_mark.index
        parts.append(text[end:start] if start > end else "")
        end = max(end, token.end_mark.index)
        if isinstance(token, _WORDS):
            name = reading.outputs.get(start)
            raw = text[start : token.end_mark.index]
            if start not in reading.gone:
                parts.append(name if name is not None else raw.strip("\"'") if raw.strip("\"'") in moved else raw)
    parts.append(text[end:])
    return "".join("".join(parts).replace("# ringgraph: ignore[G317]", "").split())


def made_by_outputs(data: bytes) -> set[str]:
    """Names of the tensors that outputs make."""
    text = data.decode("utf-8-sig")
    reading = _Reading(loader_of(text))
    events: Iterator[Any] = iter(yaml.parse(text, Loader=reading.loader))
    for event in events:
        if isinstance(event, yaml.NodeEvent):
            reading.node(event, events)
    return set(reading.outputs.values())


def check_kept(old: bytes, new: bytes) -> None:
    """Nothing but scope heads, indentation and the place where a tensor is made differs."""
    moved = made_by_outputs(old)
    assert kept(old, moved) == kept(new, moved)
    assert old.startswith(b"\xef\xbb\xbf") == new.startswith(b"\xef\xbb\xbf")
