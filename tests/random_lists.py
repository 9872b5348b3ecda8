"""Random graphs whose trips are decided at run time, random edits of what orders them, and random `share:` lists.

`cells` makes a program of theirs one for `random_programs.run_shuffled`, where what a task writes is a hash of what it reads.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from random_programs import random_trips, run_in_order, run_shuffled
from writeback import styles

from runner.base.errors import Diagnostic
from runner.driver.driver import Setup
from runner.driver.linting import lint_texts
from runner.language.library import GraphLibrary
from runner.program.ops import OpRegistry
from runner.program.program import Program, Region
from runner.rings.capacity import ring_loads, safe_heap
from runner.rings.schedule import Schedule
from runner.rings.sizes import RingSizes

OPS = OpRegistry()


@OPS.op("join", "a: f32[N, M], b: f32[K, M] -> y: f32[P, M]", core="AIV")
def join(a, b, *, y) -> None:
    """Only planned."""


@OPS.op("count", "a: f32[N, M] -> k: i32[1, 256]", core="AIV")
def count(a, *, k) -> None:
    """Only planned."""


SETUP = Setup(ops=OPS)
Item = dict[str, Any]
ACCEPTED = ("G303", "G314")
"""Of what is never read."""


class Maker(styles._Maker):
    """Loops and choices that also read what the graph itself works out."""

    def counted(self, visible: list[str]) -> tuple[Item, str]:
        k = self.name("k")
        return {"op": "count", "in": {"a": self.rng.choice(visible)}, "out": {"k": f"{k}: i32[1, 256]"}}, f"{k}[0, 0]"

    def dynamic(self, visible: list[str], unread: list[str], depth: int) -> list[Item]:
        first, loop = super().dynamic(visible, unread, depth)
        if self.rng.random() < 0.4:
            return [first, loop]  # as often as an input says
        op, loop["range"] = self.counted([name for name in visible if name not in unread])
        return [first, op, loop]

    def branch(self, visible: list[str], unread: list[str], depth: int) -> list[Item]:
        made = self.name("m")
        first = self.join(visible[0], visible[0], f"{made}: {self.spec()}")
        op, value = self.counted(visible)
        one, other = (self.body(visible, depth + 1, made) for _ in range(2))
        visible.append(made)
        unread.append(made)
        return [first, op, {"if": f"{value} > 1", "then": one, "else": other}]


def graphs(rng: random.Random) -> tuple[Item, Item]:
    """A graph and the stage that it may use."""
    before, styles._Maker = styles._Maker, Maker
    try:
        return styles.random_graph(rng), styles.random_stage(rng)
    finally:
        styles._Maker = before


def bodies(body: Any) -> Iterator[Item]:
    """All items of a body, those inside of others too."""
    for item in body if isinstance(body, list) else [body]:
        yield item
        for key in ("body", "then", "else"):
            yield from bodies(item.get(key, []))


def loosened(graph: Item, rng: random.Random) -> None:
    """Takes some `after` away, and makes some scopes manual."""
    for item in bodies(graph["body"]):
        if "after" in item and rng.random() < 0.15:
            del item["after"]
        if "scope" in item and rng.random() < 0.1 and not any("scope" in inner for inner in bodies(item["body"])):
            item["mode"] = "manual"


def names(graph: Item) -> list[str]:
    """What a list may name, in the order in which it is made."""
    found: list[str] = []
    for item in bodies(graph["body"]):
        found += [
            text.partition(":")[0] for text in item.get("out", {}).values() if ": " in text and "[" in text.partition(":")[2]
        ]
        found += list(item.get("alloc", ()))
        found += [item["id"]] if "use" in item else []
    return list(dict.fromkeys(name for name in found if "[" not in name))


def random_list(rng: random.Random, known: list[str], depth: int = 0) -> list[Any]:
    """Entries of some names, most of which take the bytes of one that is made before them."""
    left = [name for name in known if rng.random() < 0.9]
    if rng.random() < 0.5:
        rng.shuffle(left)
    entries: list[tuple[str, int, Item]] = []
    while left:
        num = rng.randint(1, 4) if depth < 2 and rng.random() < 0.15 else 0
        some, left = left[: max(num, 1)], left[max(num, 1) :]
        inside = random_list(rng, [name for name in known if name in some], depth + 1) if num else []
        if not num or inside:
            entry: Item = {"share": inside} if num else {}
            if num and rng.random() < 0.5 and not any(name.startswith("stage") for name in some):
                entry = {"ring": rng.randint(1, 4), "share": [name for name in known if name in some]}
            entries.append((f"group{depth}_{len(entries)}_{some[0]}" if num else some[0], min(map(known.index, some)), entry))
    for name, made, entry in entries:
        earlier = [other for other, at, _ in entries if at < made]
        others = [other for other, _, _ in entries if other != name]
        if earlier and rng.random() < 0.7:
            entry["replaces"] = rng.sample(earlier, min(len(earlier), rng.choice((1, 1, 2, 3))))
        elif others and rng.random() < 0.1:
            entry["replaces"] = [rng.choice(others)]
        if others and rng.random() < 0.15:
            entry["apart"] = rng.choice(others)
        if rng.random() < 0.3 and "ring" not in entry:
            entry["copies"] = rng.randint(2, 4)
    return [{name: entry} if entry else name for name, _, entry in entries]


def written(folder: Path, graph: Item, stage: Item) -> Path:
    """Both in files of a folder; the path of the graph."""
    for name, one in (("stage", stage), ("made", graph)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(one, sort_keys=False), encoding="utf-8")
    return folder / "made.yaml"


def findings(path: Path) -> list[Diagnostic]:
    return [finding for finding in lint_texts(SETUP, path, GraphLibrary()) if finding.code not in ACCEPTED]


def cells(program: Program) -> Program:
    """The program with operands as `random_programs` has them: rows of 1,024 bytes, called `in...` or `out...`."""

    def whole(region: Region) -> Region:
        spec = program.tensors[region.tensor].spec
        return region if region.box is not None else replace(region, box=tuple((0, size) for size in spec.shape))

    def called(name: str) -> str:
        return f"{'out' if name in 'yk' else 'in'}_{name}"

    operands = [{called(name): whole(region) for name, region in task.operands.items()} for task in program.tasks]
    tasks = [replace(task, operands=found) for task, found in zip(program.tasks, operands, strict=True)]
    return replace(program, tasks=tuple(tasks))


def in_any_order(plain: Program, program: Program, schedule: Schedule, seed: int) -> bool:
    """Whether the results of a program are those of `plain`, the same one without lists, at random trips, in random orders."""
    rng = random.Random(seed)
    heap = [safe_heap(load) for load in ring_loads(schedule)]
    sizes = RingSizes.from_lists(heap, [2**14] * 4, [2**14] * 4)
    for _ in range(3):
        trips = random_trips(plain, rng)
        if run_shuffled(program, schedule, sizes, trips, rng.randrange(10**9)) != run_in_order(plain, trips):
            return False
    return True
