"""Lists that are changed entry by entry: what a change gains is told before it is made, and bytes in use stay apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runner.expansion.sharing.arenas import _overlaps
from runner.expansion.sharing.conflicts import by_lives
from runner.expansion.sharing.texts import texts_of
from runner.language.graph import Shared
from runner.program.lifetimes import lives_of
from runner.writeback.sharing.arranging import Proposal, proposal
from runner.writeback.sharing.copying import widened
from runner.writeback.sharing.narrowing import Layout
from runner.writeback.sharing.scene import NOWHERE, Scene, Taste, scene_of
from tests.writeback.test_shares import SETUP, tiles
from tests.writeback.test_styles import written_graph


def scene(path: Path) -> Scene:
    return scene_of(lives_of(SETUP.program(path), allocs_touch=False), texts_of(path), lambda file: True)


def apart(of: Scene, *, lifts: bool = False, rings: bool = False) -> Proposal:
    """Lists in which nothing shares, as if all were in use all the time."""
    num = len(of.lives.size)
    found = proposal(of, np.zeros(num), np.full(num, 1e9), Taste(0.0, uses=lifts, alone=lifts, lifts=lifts, rings=rings))
    assert found is not None
    return found


def together(of: Scene) -> Proposal:
    """Lists in which all shares that is not in use at once in submission order."""
    found = proposal(of, of.lives.first.astype(float), of.lives.end.astype(float), Taste(0.0))
    assert found is not None
    return found


def changed(of: Scene, start: Proposal) -> Proposal:
    """The lists after all changes that gain anything, the best first; in none of them lies anything in bytes in use."""
    layout, best, failed = Layout(of, start.said), start, set()
    while (move := layout.best([one for one in layout.moves(set()) if one not in failed])) is not None:
        made = layout.made(move)
        assert layout.gains[move] >= 1
        if made is None or made.height > best.height:
            failed.add(move)
            continue
        assert list(_overlaps(made.at, by_lives(made.at), made.places)) == []
        best, layout = made, Layout(of, made.said)
    return best


def check(folder: Path, seeds: range, most: float) -> None:
    heights = []
    for seed in seeds:
        of = scene(written_graph(folder, seed))
        start = apart(of)
        heights.append((start.height, changed(of, start).height, together(of).height))
    before, after, least = (sum(column) for column in zip(*heights, strict=True))
    assert before > 1.5 * least
    assert after <= most * least, heights


def test_entries_that_kept_apart_share_what_is_not_in_use_at_once(tmp_path: Path) -> None:
    check(tmp_path, range(3, 5), 1.05)


@pytest.mark.slow
def test_entries_of_many_graphs_share_what_is_not_in_use_at_once(tmp_path: Path) -> None:
    """Nine of them end where only two changes at once would gain anything."""
    check(tmp_path, range(60), 1.15)


@pytest.mark.parametrize("rings", [False, True])
def test_trips_that_lay_side_by_side_take_turns(tmp_path: Path, rings: bool) -> None:
    of = scene(tiles(tmp_path))
    start = apart(of, lifts=True, rings=rings)
    assert start.height > 4 * changed(of, start).height
    assert changed(of, start).height <= together(of).height


@pytest.mark.parametrize("name", ["tile.keys", "tile.values"])
def test_what_kept_apart_in_vain_is_not_tried(tmp_path: Path, name: str) -> None:
    """No change is proposed of what bars keep apart, whichever of the two they name first."""
    of = scene(tiles(tmp_path))
    layout = Layout(of, apart(of, lifts=True).said)
    file, other = str(tmp_path / "tiles.yaml"), {"tile.keys": "tile.values", "tile.values": "tile.keys"}[name]
    assert any(move.others for move in layout.moves(set()))
    assert not any(move.others for move in layout.moves({(file, name, other)}))


TWICE = """graph: twice
inputs: {x: "f32[64, 256]", k: "f32[64, 256]"}
outputs: {y: "f32[64, 256]", z: "f32[64, 256]"}
body:
  - {op: join, in: {a: x, b: k}, out: {y: "keys: f32[512, 256]"}}
  - {op: join, in: {a: keys, b: k}, out: {y: y}}
  - {op: join, id: again, in: {a: k, b: x}, out: {y: "keys: f32[256, 256]"}}
  - {op: join, id: last, in: {a: keys, b: k}, out: {y: z}}
"""


def test_what_is_made_twice_and_waited_for_itself_takes_turns_in_a_ring(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(TWICE)
    of, offsets = scene(path), []
    first, end = of.lives.first.astype(float), of.lives.end.astype(float)
    for more in ((), ((str(path), "keys", 1.1),)):
        found = proposal(of, first, end, replace(Taste(0.0), more=more))
        assert found is not None
        offsets.append(found.places.offsets.tolist())
    assert offsets == [[0, 0], [0, 512]]
    ((ring,),) = found.said.values()
    assert (ring.name, ring.ring, [one.name for one in ring.inside or ()]) == ("keys_ring", 2, ["keys"])
    (again,) = widened(of, {str(path): (Shared("keys", NOWHERE),)}, Taste(0.0, counts=((str(path), "keys_ring", 3),)))[str(path)]
    assert again.ring == 3
