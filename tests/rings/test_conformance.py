"""Every recorded case of the real runtime, replayed: same outcome, records and blocks.

Source: recordings of the public `simpler` runtime (CPU simulation of a2a3), with the device idle before every operation, or
(`progress` is `steps`) with nothing completing but what their events say. The folder `2026-08` is of the runtime's state of
2026-08-22, the others are older.
"""

import pytest
from places import DATA

from runner.recorded.conformance import read_conformance
from runner.recorded.programs import load_json, recorded_from_replay, replay_recording

CASES = sorted((DATA / "conformance").rglob("*.json"))


def test_there_are_cases():
    assert len(CASES) >= 38 + 48


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_recorded_case(path):
    recorded = load_json(path)
    got = recorded_from_replay(replay_recording(read_conformance(recorded)), "progress" in recorded)
    assert got["outcome"] | recorded["outcome"] == got["outcome"]
    assert got["records"] == recorded["records"]
    if "blocks_omitted" in recorded:
        assert len(got["blocks"]) == recorded["blocks_omitted"]
    else:
        assert got["blocks"] == recorded["blocks"]
