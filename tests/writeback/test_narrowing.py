"""Lists that are changed entry by entry: what a change gains is told before it is made, and bytes in use stay apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runner.expansion.sharing.arenas import _overlaps
from runner.expansion.sharing.conflicts import by_lives
from runner.expansion.sharing.texts import texts_of
from runner.program.lifetimes import lives_of
from runner.writeback.sharing.arranging import Proposal, proposal
from runner.writeback.sharing.narrowing import Layout
from runner.writeback.sharing.scene import Scene, Taste, scene_of
from tests.writeback.test_shares import SETUP, tiles
from tests.writeback.test_styles import written_graph


def scene(path: Path) -> Scene:
    return scene_of(lives_of(SETUP.program(path), allocs_touch=False), texts_of(path), lambda file: True)


def apart(of: Scene, **taste: bool) -> Proposal:
    """Lists in which nothing shares, as if all were in use all the time."""
    num = len(of.lives.size)
    found = proposal(of, np.zeros(num), np.full(num, 1e9), Taste(0.0, **taste))
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
    while (move := layout.best([one for one in layout.moves(1, set()) if one not in failed])) is not None:
        made = layout.made(move)
        assert layout.gains[move] > 0
        if made is None or made.height > best.height:
            failed.add(move)
            continue
        assert list(_overlaps(made.at, by_lives(made.at), made.places)) == []
        best, layout = made, Layout(of, made.said)
    return best


def check(folder: Path, seeds: range) -> None:
    heights = []
    for seed in seeds:
        of = scene(written_graph(folder, seed))
        start = apart(of)
        heights.append((start.height, changed(of, start).height, together(of).height))
    before, after, least = (sum(column) for column in zip(*heights, strict=True))
    assert before > 1.5 * least
    assert after <= 1.05 * least, heights


def test_entries_that_kept_apart_share_what_is_not_in_use_at_once(tmp_path: Path) -> None:
    check(tmp_path, range(3, 5))


@pytest.mark.slow
def test_entries_of_many_graphs_share_what_is_not_in_use_at_once(tmp_path: Path) -> None:
    check(tmp_path, range(60))


@pytest.mark.parametrize("rings", [False, True])
def test_trips_that_lay_side_by_side_take_turns(tmp_path: Path, rings: bool) -> None:
    of = scene(tiles(tmp_path))
    start = apart(of, uses=True, alone=True, lifts=True, rings=rings)
    assert start.height > 4 * changed(of, start).height
    assert changed(of, start).height <= together(of).height


@pytest.mark.parametrize("name", ["tile.keys", "tile.values"])
def test_what_kept_apart_in_vain_is_not_tried(tmp_path: Path, name: str) -> None:
    """No change is proposed of what bars keep apart, whichever of the two they name first."""
    of = scene(tiles(tmp_path))
    layout = Layout(of, apart(of, uses=True, alone=True, lifts=True).said)
    file, other = str(tmp_path / "tiles.yaml"), {"tile.keys": "tile.values", "tile.values": "tile.keys"}[name]
    assert any(move.others for move in layout.moves(1, set()))
    assert not any(move.others for move in layout.moves(1, {(file, name, other)}))
