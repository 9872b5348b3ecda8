"""Lists in which all that is high has fewer copies at once, as long as they are in time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runner.driver.planning import TimedOptions
from runner.expansion.sharing.texts import texts_of
from runner.program.lifetimes import Rows, lives_of
from runner.rings.devices.timed_lives import Work
from runner.writeback.sharing import search
from runner.writeback.sharing.narrowing import Layout, Move
from runner.writeback.sharing.scene import scene_of
from runner.writeback.sharing.search import WAYS, ShareSearch
from runner.writeback.sharing.squeezing import Squeeze, cheapest
from schedulers import get_scheduler
from tests.writeback.test_narrowing import apart, scene
from tests.writeback.test_shares import PART, SETUP, TILES, tiles
from tests.writeback.test_styles import written_graph

CHAIN = "\n".join(
    f'      - {{op: join, id: c{k}, in: {{a: {f"s{k - 1}" if k else "seen"}, b: k}}, out: {{y: "s{k}: f32[64, 256]"}}}}'
    for k in range(12)
)
LAYERS = """graph: layers
inputs: {x: "f32[768, 256]", k: "f32[64, 256]"}
outputs: {y: "f32[768, 256]"}
body:
  - alloc: {rows: "f32[768, 256]"}
  - {op: join, in: {a: x, b: k}, out: {y: rows}}
  - for: l
    range: 3
    carry: {rows: next}
    body:
      - {op: join, id: one, in: {a: rows, b: k}, out: {y: "map: f32[4, 256]"}}
      - {op: join, id: use_one, in: {a: map, b: k}, out: {y: "left: f32[64, 256]"}}
      - {op: join, id: two, in: {a: rows, b: k}, out: {y: "map: f32[4, 256]"}}
      - {op: join, id: use_two, in: {a: map, b: left}, out: {y: "seen: f32[64, 256]"}}
CHAIN
      - alloc: {next: "f32[768, 256]"}
      - for: t
        range: 12
        body:
          - {use: part, id: tile, with: {x: "rows[64 * t : 64 * t + 64]", k: s11, y: "next[64 * t : 64 * t + 64]"}}
  - {op: join, id: last, in: {a: rows, b: k}, out: {y: y}}
""".replace("CHAIN", CHAIN)
"""Layers that make a small tensor twice, so that its second writer waits for the first one's reader, and twelve large tiles."""


def layers(folder: Path) -> Path:
    (folder / "part.yaml").write_text(PART.replace("values: f32[256, 256]", "values: f32[512, 256]"))
    (folder / "layers.yaml").write_text(LAYERS)
    return folder / "layers.yaml"


def searched(path: Path) -> ShareSearch:
    program = SETUP.program(path)
    lives, schedule = lives_of(program, allocs_touch=False), get_scheduler("annotated")(program, {"share": False})
    timing = TimedOptions(task_us=20, cores="unlimited").timing(schedule, SETUP.registry, {})
    work = Work.of(lives, Rows.of([task.waits + task.after for task in program.tasks]), schedule, timing)
    return ShareSearch(scene_of(lives, texts_of(path), lambda file: True), work)


@pytest.mark.parametrize("rings", [False, True])
def test_fewer_copies_come_to_so_many_units(tmp_path: Path, rings: bool) -> None:
    """What is told without making lists is what these come to, one change after the other."""
    of = scene(tiles(tmp_path))
    start = apart(of, lifts=True, rings=rings)
    layout, heights = Layout(of, start.said), [start.height]
    assert layout.lowered(start.height) == {}
    for part in (0.75, 0.5, 0.25, 0.0):
        most, said = int(part * start.height), start.said
        for (file, name), count in layout.lowered(most).items():
            made = Layout(of, said).made(Move(file, name, count))
            assert made is not None
            said = made.said
        heights.append(Layout(of, said).height)
        assert heights[-1] <= most or not any(move.count and move.count > 1 for move in Layout(of, said).moves(set())), heights
    assert heights == sorted(heights, reverse=True) and heights[-1] < heights[0] / 3


def test_what_takes_few_bytes_is_said_first(tmp_path: Path) -> None:
    """Tiles in a ring wait for longer than what is made twice, which gets a place of its own before."""
    path = layers(tmp_path)
    searching = searched(path)
    found = searching._try(searching.work.free, next(way for way in WAYS if way.rings))
    assert found is not None
    free_us = searching.work.free.makespan_us
    waited: dict[str, float] = {}
    for pair, late_us in found.blamed(free_us).items():
        name = (found.remedy(pair) or ("", ""))[1]
        waited[name] = waited.get(name, 0.0) + late_us
    assert waited["tile_ring"] > waited["map"] > 0
    assert cheapest(found, free_us, set()) == {(str(path), "map")}
    assert cheapest(found, free_us, {(str(path), "map")}) == {(str(path), "tile_ring")}
    squeeze = Squeeze(searching.scene, found, searching._try)
    faster = squeeze.in_time(found.height, free_us)
    assert faster is not None and faster.makespan_us < found.makespan_us
    assert ("map_ring", 2) in {(entry.name, entry.ring) for entry in faster.proposal.said[str(path)]}


def check_never_more(monkeypatch: pytest.MonkeyPatch, path: Path, slack: float) -> tuple[int, int]:
    """The units of lists in time without and with fewer copies at once."""
    heights = []
    for part in (0.0, search.SQUEEZING):
        monkeypatch.setattr(search, "SQUEEZING", part)
        searching = searched(path)
        limit_us = slack * searching.work.free.makespan_us
        found = searching.fewest(limit_us)
        assert found is not None
        heights.append((max(found.makespan_us, limit_us), found.height))
    assert heights[1] <= heights[0]
    return heights[0][1], heights[1][1]


@pytest.mark.slow
def test_fewer_copies_at_once_take_fewer_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without, squeezed = check_never_more(monkeypatch, layers(tmp_path), 1.15)
    assert squeezed <= 0.6 * without


@pytest.mark.slow
@pytest.mark.parametrize("slack", [1.0, 1.05, 1.1, 1.2, 1.25, 1.3, 1.4, 1.6])
@pytest.mark.parametrize("graph", [layers, tiles])
def test_fewer_copies_at_once_take_never_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graph, slack: float) -> None:
    check_never_more(monkeypatch, graph(tmp_path), slack)


def test_few_units_are_halved_to_an_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Between two numbers of units that differ by one there is nothing to try."""
    path = tmp_path / "few.yaml"
    path.write_text(TILES.replace("768", "24").replace("64", "2").replace("256", "32"))
    (tmp_path / "part.yaml").write_text(re.sub(r"f32\[\d+, 256\]", "f32[2, 32]", PART))
    check_never_more(monkeypatch, path, 1.3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_fewer_copies_at_once_of_random_graphs_take_never_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seed: int
) -> None:
    check_never_more(monkeypatch, written_graph(tmp_path, seed), 1.05)
