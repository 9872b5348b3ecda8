"""This module reads traces: what a compiler's output submitted, one JSON object a line."""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from runner.base.errors import Mark, ScheduleError
from runner.base.reading import parse_json_line
from runner.base.tensor_spec import round_up
from runner.recorded.programs import Builder
from runner.rings.schedule import Read, Schedule, Slot, Submission


def read_trace(path: Path) -> Schedule:
    """The schedule of a trace of submissions, one JSON object a line (`.jsonl` or `.jsonl.xz`); raises ScheduleError.

    `begin` (mode, line), `end`, `alloc` (id, bytes, tensors as [buffer, bytes]), `task` (id, core, blocks, deps, reads, writes),
    `read` (deps). Buffers without an alloc come from outside.
    """
    build = Builder()
    index_of: dict[int, int] = {}
    owner: dict[int, int] = {}
    for number, item in enumerate(_json_lines(path), 1):
        try:
            _trace_item(item, build, index_of, owner, path.name)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ScheduleError(f"{path}:{number}: not a trace record: {error!r}") from None
    if build.open or not build.scopes:
        raise ScheduleError(f"{path}: the root scope is never {'closed' if build.open else 'opened'}")
    return build.schedule(path.name.split(".")[0], "trace")


def _trace_item(item: Mapping[str, Any], build: Builder, index_of: dict[int, int], owner: dict[int, int], file: str) -> None:
    match item["op"]:
        case "begin":
            build.begin(f"line {item['line']}" if build.open else "root", item["mode"], Mark(file, max(1, item["line"])))
        case "end":
            build.end()
        case "alloc":
            slots, end = [], 0
            for buffer, size in item["tensors"]:
                slots.append(Slot(buffer, end, round_up(size), f"buffer {buffer}"))
                end += round_up(size)
                owner[buffer] = len(build.submissions)
            if end != item["bytes"]:
                raise ValueError(f"the tensors of alloc {item['id']} take {end:,} bytes, not {item['bytes']:,}")
            index_of[item["id"]] = build.submit(Submission("alloc", end, tuple(slots)))
        case "task":
            waits = {index_of[dep] for dep in item["deps"]}
            touched = {owner[b] for b in (*item["reads"], *item["writes"]) if b in owner}
            index_of[item["id"]] = build.submit(
                Submission(
                    f"task {item['id']}",
                    waits=tuple(sorted(waits)),
                    holds=tuple(sorted(touched & waits)),
                    core=item["core"].upper(),
                    num_blocks=item["blocks"],
                )
            )
        case "read":
            build.steps.append(Read(tuple(index_of[dep] for dep in item["deps"])))
        case other:
            raise ValueError(f"unknown op {other!r}")


def _json_lines(path: Path) -> Iterable[Any]:
    opener = lzma.open if path.suffix == ".xz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                yield parse_json_line(f"{path}:{number}", line, ScheduleError)
    except (OSError, lzma.LZMAError, UnicodeDecodeError, EOFError) as error:
        raise ScheduleError(f"cannot read {path}: {error}") from None
