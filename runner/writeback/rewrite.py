"""This module puts scopes into the text of a graph file and takes them out, as splices: all other bytes stay as they are.

What a scope does to a block list is indentation at the begin of lines; inside brackets it is put around items in place. Where a
spelling leaves no room for that, the edit is refused with the place in the user's text.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from runner.base.errors import Mark, ScheduleError
from runner.language import graph
from runner.language.notation import split_output
from runner.writeback.splices import Splice, spliced
from runner.writeback.text import BOM, Home, Part, Text, read_or_none

INDENT = 4
"""Columns that the items of a scope stand further right than the scope."""

WIDTH = 120
"""An alloc that would end further right gets a line for each tensor."""

AMBIGUOUS = ("on", "off", "yes", "no", "true", "false", "null")
"""Names that YAML takes for something else unless they are quoted."""

CLOSING, HEADER, SHIFT, OPENING = range(4)
"""Order of what is put in at one place."""

_BLOCK_SCALAR = re.compile(r"[|>][-+0-9]*")


@dataclass(frozen=True, slots=True)
class Edit:
    """`wrap` puts the items from `first` to `last` into a scope `name`; `remove` takes the scope at `first` away; `mode auto` and
    `mode manual` change it. Marks are those of items, of one file. `hoisted` are the marks of outputs that create a tensor, in
    groups: an alloc for each group before the scope creates them instead. `comment` stands behind the scope's name.
    """

    what: str
    first: Mark
    last: Mark
    name: str = ""
    hoisted: tuple[tuple[Mark, ...], ...] = ()
    comment: str = ""


class RefusedEditError(ScheduleError):
    """An edit that the text's spelling leaves no room for."""

    def __init__(self, edit: Edit, why: str, hint: str) -> None:
        done = {"wrap": "no scope can be put around this", "remove": "this scope cannot be taken out"}
        what = done.get(edit.what, "the mode of this scope cannot be changed")
        super().__init__(f"{edit.first}: {what}: {why}", hint=hint)
        self.edit = edit


def splices_of(data: bytes, edits: Sequence[Edit]) -> list[Splice]:
    """The changes to a file's bytes that the edits come to; raises RefusedEditError."""
    head = BOM if data.startswith(BOM) else b""
    text = read_or_none(data.removeprefix(head).decode("utf-8"))
    assert text is not None, "the graph was loaded from it"
    rewrite = _Rewrite(text)
    for edit in sorted(edits, key=rewrite.order):
        rewrite.make(edit)
    changes = rewrite.changes()
    splices = _in_bytes(changes, text.text, len(head))
    changed = _first_changed(text, changes, spliced(data, splices).removeprefix(head).decode("utf-8"))
    if changed is not None:
        edit = rewrite.edit_at(changed, edits)
        where = f"line {text.line_of(changed) + 1} is written so that it would change"
        raise RefusedEditError(edit, where, "write the body as a block list, an item to each dash")
    return splices


@dataclass(frozen=True, slots=True)
class _Change:
    """Characters from `start` to `end` go out, and `inserted` comes in."""

    start: int
    end: int
    inserted: str


class _Rewrite:
    """The edits of one text, made one by one, outer ones before inner ones.

    shift       per line by how many columns it moves        deleted   what goes out, from and to
    insertions  (place, order, number, text) of what comes in
    """

    def __init__(self, text: Text) -> None:
        self.text = text
        self.shift: dict[int, int] = {}
        self.deleted: list[tuple[int, int]] = []
        self.insertions: list[tuple[int, int, int, str]] = []
        found = re.search("\r\n|\n|\r", text.text)
        self.newline = found[0] if found else "\n"
        self.outputs = {
            part.start + (part.style in ("'", '"')): part for part in text.parts if part.kind == "scalar"
        }  # by the place of their text, which begins behind a quote

    # --- the edits ---

    def order(self, edit: Edit) -> tuple[int, int, int]:
        """Outer before inner; of edits that begin and end at the same items, a loop or branch body before a use."""
        first, last = self._item(edit.first), self._item(edit.last)
        return first.start, -last.end, 0 if edit.name.endswith(("_trip", "_branch")) else 1

    def edit_at(self, place: int, edits: Iterable[Edit]) -> Edit:
        """The innermost edit that has to do with a place."""
        ordered = sorted(edits, key=self.order)
        near = [edit for edit in ordered if self._item(edit.first).start <= place]
        around = [edit for edit in near if place <= self._item(edit.last).end]
        return (around or near or ordered)[-1]

    def make(self, edit: Edit) -> None:
        if edit.what == "wrap":
            self._wrap(edit)
        elif edit.what == "remove":
            self._remove(edit)
        else:
            self._change_mode(edit)
        for mark in [mark for group in edit.hoisted for mark in group]:
            self._refer(edit, mark)

    def _item(self, mark: Mark) -> Part:
        return self.text.at[self.text.place(mark)]

    def _home(self, edit: Edit, part: Part) -> Home:
        homes = self.text.homes_of(part)
        if len(homes) != 1:
            raise self._shared(edit, part)
        return homes[0]

    def _shared(self, edit: Edit, part: Part) -> RefusedEditError:
        aliases = [home.part for home in self.text.homes_of(part) if home.part.kind == "alias"]
        named = f" by the alias '*{aliases[0].value}' in line {self.text.line_of(aliases[0].start) + 1}" if aliases else ""
        return RefusedEditError(edit, f"it is used again{named}", "write it out in place of the alias")

    # --- new scopes ---

    def _wrap(self, edit: Edit) -> None:
        first, last = self._run(edit)
        in_list = first.around.kind == "list"
        if first.around.is_flow or (not in_list and (first.part.is_flow or first.part.kind == "alias")):
            self._wrap_inline(edit, first.part, last.part, in_list)
        elif in_list:
            dash = self.text.dash_of(first.part)
            if self._before(dash).strip(" "):
                raise RefusedEditError(edit, "other text stands before its dash", "begin the list on a line of its own")
            self._wrap_lines(edit, dash, self.text.last_line(last.part), "")
        else:
            self._wrap_lines(edit, first.part.inside[0].start, self.text.last_line(first.part), "- ")

    def _run(self, edit: Edit) -> tuple[Home, Home]:
        """Where the first and the last item stand, which is in one body."""
        first, last = self._item(edit.first), self._item(edit.last)
        firsts, lasts = self.text.homes_of(first), self.text.homes_of(last)
        runs = [(one, other) for one in firsts for other in lasts if one.around is other.around and one.index <= other.index]
        if len(runs) != 1:
            raise self._shared(edit, first if len(firsts) > 1 else last)
        return runs[0]

    def _before(self, place: int) -> str:
        return self.text.text[self.text.starts[self.text.line_of(place)] : place]

    def _wrap_lines(self, edit: Edit, begin: int, last_line: int, dash: str) -> None:
        """A scope around the lines from the one of `begin`, where the first item's dash stands, or `dash` is put in."""
        text = self.text
        line, column = text.line_of(begin), text.column(begin)
        pad = " " * (column + self.shift.get(line, 0))
        start = self._with_comments(line, column)
        comment = f"  # {edit.comment}" if edit.comment else ""
        head = [*self._allocs(edit, pad), f"{pad}- scope: {edit.name}{comment}", f"{pad}  body:"]
        self._insert(text.starts[start], HEADER, "".join(f"{one}{self.newline}" for one in head))
        for number in range(start, last_line + 1):
            alone = text.comment_alone(number) if self._is_outside(number) else None
            if alone is None or alone >= column:
                self._move(number, INDENT + (len(dash) if number != line else 0))
        if dash:
            self._insert(begin, OPENING, dash)

    def _with_comments(self, line: int, column: int) -> int:
        """The first of the lines above a line that hold a comment at its column, or the line."""
        while line and self.text.comment_alone(line - 1) == column and self._is_outside(line - 1):
            line -= 1
        return line

    def _is_outside(self, line: int) -> bool:
        return line not in self.text.literal and line not in self.text.folded

    def _wrap_inline(self, edit: Edit, first: Part, last: Part, in_list: bool) -> None:
        allocs = "".join(f"{{{line.removeprefix('- ')}}}, " for line in self._allocs(edit, "", sys.maxsize))
        opened, closed = ("", "") if in_list or not allocs else ("[", "]")
        self._insert(first.start, OPENING, f"{opened}{allocs}{{scope: {edit.name}, body: [")
        self._insert(last.end, CLOSING, f"]}}{closed}")

    def _output(self, edit: Edit, mark: Mark) -> tuple[Part, str, str]:
        """An output that creates a tensor: its text, and the tensor's name and type."""
        part = self.outputs[self.text.place(mark)]
        home = self._home(edit, part)
        operand = home.around.inside[home.index - 1].value
        created = split_output(operand, graph.Text(part.value, mark))
        assert created is not None, "what is hoisted is created here"
        return part, created[0], " ".join(created[1].value.split())

    def _refer(self, edit: Edit, mark: Mark) -> None:
        """Turns `NAME: TYPE`, or a type alone, into the name of a tensor that is there already."""
        part, name, _ = self._output(edit, mark)
        end = part.end
        if part.style in ("|", ">"):
            head = _BLOCK_SCALAR.search(self.text.text, part.start + len(part.anchor))
            assert head is not None
            end = head.end()
            self.deleted.append((self.text.starts[self.text.line_of(end) + 1], part.end))
        self.deleted.append((part.start, end))
        self._insert(part.start, OPENING, _quoted_name(name))

    def _allocs(self, edit: Edit, pad: str, width: int = WIDTH) -> list[str]:
        """Lines of the allocs before a scope, for each group one alloc."""
        lines = []
        for group in edit.hoisted:
            made = [f"{_quoted_name(name)}: {_quoted(spec)}" for _, name, spec in (self._output(edit, mark) for mark in group)]
            line = f"{pad}- alloc: {{{', '.join(made)}}}"
            lines += [line] if len(line) <= width else [f"{pad}- alloc:", *(f"{pad}    {one}" for one in made)]
        return lines

    # --- scopes that are there ---

    def _remove(self, edit: Edit) -> None:
        scope = self._item(edit.first)
        home = self._home(edit, scope)
        _, body = self._of_scope(edit, scope, "body")
        for part in (*scope.inside, body):
            if self.text.is_shared(part) or (part is body and part.kind == "alias"):
                raise RefusedEditError(edit, "a part of it is used again by an alias", "write it out in place of the alias")
        if not body.inside:
            raise RefusedEditError(edit, "it holds nothing", "take it out of the file")
        in_list = home.around.kind == "list"
        if not body.is_flow:
            self._remove_lines(scope, body, self.text.dash_of(scope) if in_list else None)
        elif in_list and not home.around.is_flow:
            self._remove_to_entries(scope, body, self.text.dash_of(scope))
        else:
            kept = body.inside if in_list else [body]
            self._erase(scope.start, kept[0].start)
            self._erase(kept[-1].end, scope.end)

    def _of_scope(self, edit: Edit, scope: Part, key: str) -> tuple[Part, Part]:
        found = scope.value_of(key)
        if found is None:
            raise RefusedEditError(edit, f"its '{key}' is not written here", "write the scope out")
        return found

    def _remove_lines(self, scope: Part, body: Part, dash: int | None) -> None:
        """Takes a block scope with a block body out of its lines; without a dash it is a branch, which its body becomes."""
        text = self.text
        first, last = text.line_of(text.dash_of(body.inside[0])), text.last_line(body)
        begin = dash if dash is not None else scope.inside[0].start
        columns = text.column(text.dash_of(body.inside[0])) - text.column(begin) if dash is not None else 0
        for line in (*range(text.line_of(begin), first), *range(last + 1, text.last_line(scope) + 1)):
            self._strip(line)
        for line in range(text.line_of(begin), last + 1):
            alone = text.comment_alone(line) if self._is_outside(line) else None
            if alone is not None:
                self._move(line, -min(columns, max(0, alone - text.column(begin))))
            elif line >= first:
                self._move(line, -columns)

    def _strip(self, line: int) -> None:
        """Takes out a line of a scope's head, but for its comment."""
        text = self.text
        start, end = text.starts[line], text.starts[line + 1] if line + 1 < len(text.starts) else len(text.text)
        blank = not text.line(line).strip()
        if (blank or text.comment_alone(line) is not None) and self._is_outside(line):
            return
        comments = [] if line in text.literal else text.comments_in(start, end)
        if comments:
            begin = start + len(text.line(line)) - len(text.line(line).lstrip(" "))
            self.deleted.append((begin, comments[0][0]))
        else:
            self.deleted.append((start, end))

    def _remove_to_entries(self, scope: Part, body: Part, dash: int) -> None:
        """Takes a scope with its body in brackets out of a block list: each item gets a dash of its own."""
        pad = " " * (self.text.column(dash) + self.shift.get(self.text.line_of(dash), 0))
        if self._erase(scope.start, body.inside[0].start):
            self._insert(self._clear_before(body.inside[0].start), SHIFT, f"{pad}  ")
        for one, other in pairwise(body.inside):
            if self._erase(one.end, other.start):
                self._insert(self._clear_before(other.start), SHIFT, f"{pad}- ")
            else:
                self._insert(other.start, SHIFT, f"{self.newline}{pad}- ")
        self._erase(body.inside[-1].end, scope.end)

    def _clear_before(self, place: int) -> int:
        """Takes out what stands before a place in its line, and returns the place."""
        self.deleted.append((self.text.starts[self.text.line_of(place)], place))
        return place

    def _erase(self, start: int, end: int) -> bool:
        """Takes out what stands between two places, but for comments, with which line breaks stay; says whether there are any."""
        comments = self.text.comments_in(start, end)
        if not comments:
            self.deleted.append((start, end))
            return False
        for (_, low), (high, _) in pairwise([(start, start), *comments, (end, end)]):
            self.deleted += [(low + word.start(), low + word.end()) for word in re.finditer(r"\S+", self.text.text[low:high])]
        return True

    def _change_mode(self, edit: Edit) -> None:
        scope = self._item(edit.first)
        home = self._home(edit, scope)
        if edit.hoisted:
            self._allocate_before(edit, scope, home)
        mode, found = edit.what.removeprefix("mode "), scope.value_of("mode")
        key, _ = self._of_scope(edit, scope, "body")
        if found is not None and found[1].value == mode:
            return
        if found is not None and (scope.is_flow or mode == "manual" or found[0] is scope.inside[0]):
            self.deleted.append((found[1].start, found[1].end))
            self._insert(found[1].start, OPENING, mode)
        elif found is not None:
            self._strip(self.text.line_of(found[0].start))
        elif scope.is_flow:
            self._insert(key.start, OPENING, f"mode: {mode}, ")
        else:
            pad = " " * self.text.column(key.start)
            self._insert(
                key.start, OPENING, f"mode: {mode}{self.newline}{pad}{' ' * self.shift.get(self.text.line_of(key.start), 0)}"
            )

    def _allocate_before(self, edit: Edit, scope: Part, home: Home) -> None:
        """Puts the allocs of what is hoisted before a scope that is there."""
        if home.around.kind != "list":
            raise RefusedEditError(edit, "it is a branch, before which nothing can stand", "write the branch as a list")
        if home.around.is_flow:
            allocs = self._allocs(edit, "", sys.maxsize)
            self._insert(scope.start, OPENING, "".join(f"{{{line.removeprefix('- ')}}}, " for line in allocs))
            return
        dash = self.text.dash_of(scope)
        if self._before(dash).strip(" "):
            raise RefusedEditError(edit, "other text stands before its dash", "begin the list on a line of its own")
        line, column = self.text.line_of(dash), self.text.column(dash)
        pad = " " * (column + self.shift.get(line, 0))
        place = self.text.starts[self._with_comments(line, column)]
        self._insert(place, HEADER, "".join(f"{one}{self.newline}" for one in self._allocs(edit, pad)))

    # --- all together ---

    def _insert(self, place: int, order: int, inserted: str) -> None:
        number = len(self.insertions)
        self.insertions.append((place, order, -number if order == CLOSING else number, inserted))

    def _move(self, line: int, columns: int) -> None:
        self.shift[line] = self.shift.get(line, 0) + columns

    def changes(self) -> list[_Change]:
        """What goes out and what comes in, in order and without overlap."""
        insertions = list(self.insertions)
        deleted = _merged(self.deleted)
        starts = [start for start, _ in deleted]
        gone = {line for line in self.shift if _covers(deleted, starts, self.text.starts[line])}
        for line, columns in self.shift.items():
            place = self.text.starts[line]
            if line in gone or not columns:
                continue
            if columns > 0 and self._takes_columns(line):
                insertions.append((place, SHIFT, 0, " " * columns))
            elif columns < 0:
                deleted.append((place, place + self._columns_to_take(line, -columns)))
        return _combined(_merged(deleted), sorted(insertions))

    def _takes_columns(self, line: int) -> bool:
        content = self.text.text[self.text.starts[line] : self.text.end_of_line(line)]
        return bool(content) if line in self.text.literal else bool(content.strip(" \t"))

    def _columns_to_take(self, line: int, columns: int) -> int:
        """How many of the blanks that a line begins with go out."""
        content = self.text.text[self.text.starts[line] : self.text.end_of_line(line)]
        blanks = len(content) - len(content.lstrip(" "))
        if line in self.text.literal:
            return min(columns, blanks)
        if not content.strip(" \t"):
            return 0
        if line in self.text.folded:  # what stands further left stays there; `---` in column 0 would end the text
            return columns if blanks > columns else 0
        return min(columns, blanks)


def _quoted_name(name: str) -> str:
    return f'"{name}"' if name.lower() in AMBIGUOUS else name


def _quoted(spec: str) -> str:
    if '"' in spec or "\\" in spec:
        return "'" + spec.replace("'", "''") + "'"
    return f'"{spec}"'


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for start, end in sorted(one for one in ranges if one[0] < one[1]):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def _covers(ranges: Sequence[tuple[int, int]], starts: Sequence[int], place: int) -> bool:
    at = bisect_right(starts, place) - 1
    return at >= 0 and place < ranges[at][1]


def _combined(deleted: Sequence[tuple[int, int]], insertions: Sequence[tuple[int, int, int, str]]) -> list[_Change]:
    """Deletions, each with what is put in from its begin to its end, and the other insertions."""
    texts: dict[tuple[int, int], list[str]] = {one: [] for one in deleted}
    ends = [end for _, end in deleted]
    for place, _, _, inserted in insertions:
        at = bisect_left(ends, place)
        near = deleted[at] if at < len(deleted) and deleted[at][0] <= place else (place, place)
        texts.setdefault(near, []).append(inserted)
    return [_Change(start, end, "".join(texts[start, end])) for start, end in sorted(texts)]


def _in_bytes(changes: Sequence[_Change], text: str, head: int) -> list[Splice]:
    found, place, offset = [], 0, head
    for change in changes:
        offset += len(text[place : change.start].encode("utf-8"))
        removed = text[change.start : change.end].encode("utf-8")
        found.append(Splice(offset, removed, change.inserted.encode("utf-8")))
        place, offset = change.end, offset + len(removed)
    return found


def _first_changed(old: Text, changes: Sequence[_Change], changed: str) -> int | None:
    """The first scalar, alias or comment that stays in the text and is read otherwise after the changes; None if none is."""
    new = read_or_none(changed)
    if new is None:
        return changes[0].start
    scalars = {part.start: part for part in new.parts if part.kind in ("scalar", "alias") and part.start < part.end}
    at, moved = 0, 0
    things = [(part.start, part) for part in old.parts if part.kind in ("scalar", "alias") and part.start < part.end]
    for place, thing in sorted([*things, *((start, None) for start in old.comments)], key=lambda one: one[0]):
        while at < len(changes) and changes[at].end <= place:
            moved += len(changes[at].inserted) - (changes[at].end - changes[at].start)
            at += 1
        if at < len(changes) and changes[at].start <= place < changes[at].end:
            if thing is None:
                return place
            continue
        if thing is None:
            if changed[place + moved : new.comments.get(place + moved, 0)] != old.text[place : old.comments[place]]:
                return place
            continue
        found = scalars.get(place + moved)
        if found is None or not found.says_what(thing):
            return place
    return None
