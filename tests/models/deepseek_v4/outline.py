"""The traced reference program, listed in `tests/data/outlines/`: its tensors in block order and its tasks, loops unrolled.

The lists were written from the reference's compiled programs: flash, two ranks, 32 experts a rank, 1,024 receive rows in
prefill and 16 in decode.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from places import DATA

FOLDER = DATA / "outlines"
COPY = re.compile(r"(?<!^ret0)_\d+$")


@dataclass
class Traced:
    """A task: `touches` are the tensors made inside the program, `outside` the others."""

    name: str
    core: str
    blocks: str
    touches: set[str] = field(default_factory=set)
    outside: set[str] = field(default_factory=set)


@dataclass
class Stage:
    """One scope with everything inside. `tensors` are (name, spec), `pipes` the sizes of scratch that the compiler adds."""

    tensors: list[tuple[str, str]] = field(default_factory=list)
    pipes: list[str] = field(default_factory=list)
    tasks: list[Traced] = field(default_factory=list)


def plain(name: str) -> str:
    """Without what tells copies apart (`_0`), and without `_out` of what is received."""
    name = COPY.sub("", name)
    return name.removesuffix("_out") if name.startswith("recv_") else name


def stage(deploy: str, scope: str, trips: int) -> Stage:
    """The named scope; a loop with trips known only when it runs is unrolled `trips` times."""
    lines = (FOLDER / f"{deploy}.txt").read_text(encoding="utf-8").splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith(f"scope {scope} "))
    found = Stage()
    _items(_indented(lines, begin), found, trips)
    return found


def _indented(lines: list[str], at: int) -> list[str]:
    """The lines below `lines[at]` that are indented deeper than it."""
    depth = len(lines[at]) - len(lines[at].lstrip())
    body = []
    for line in lines[at + 1 :]:
        if not line.strip() or len(line) - len(line.lstrip()) <= depth:
            break
        body.append(line)
    return body


def _items(lines: list[str], found: Stage, trips: int) -> None:
    at = 0
    while at < len(lines):
        text, body = lines[at].strip(), _indented(lines, at)
        if text.startswith("block "):
            _tensors(body, found)
        elif text.startswith("task "):
            found.tasks.append(_task(text))
        elif text.startswith("for "):
            count = re.search(r"trips (\d+):$", text)
            for _ in range(int(count[1]) if count else trips):
                _items(body, found, trips)
        elif text.startswith("scope "):
            _items(body, found, trips)
        else:
            assert text.startswith("read "), text
        at += 1 + len(body)


def _tensors(lines: list[str], found: Stage) -> None:
    for line in lines:
        name, spec = line.strip().split(": ")
        if name.startswith("gm_pipe_buffer"):
            found.pipes.append(spec)
        else:
            found.tensors.append((plain(name), spec))


def _task(text: str) -> Traced:
    match = re.match(r"task (\w+) \((\w+)(?:\(AIC\+AIV\))?, (.+) blocks\)(.*)", text)
    assert match, text
    task = Traced(plain(match[1]), match[2], match[3])
    for part in match[4].split(";"):
        for name in part.strip().split(" ", 1)[-1].split(", "):
            if name.startswith("ext:"):
                task.outside.add(name[4:])
            elif name and not name.startswith("gm_pipe_buffer"):
                task.touches.add(plain(name))
    return task
