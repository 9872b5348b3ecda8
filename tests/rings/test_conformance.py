"""Every recorded case of the real runtime, replayed: same outcome, records and blocks.

Source: recordings of the public `simpler` runtime (CPU simulation of a2a3) with the device idle before every operation.
"""

import pytest
from places import DATA

from runner.recorded.programs import load_json, recorded_from_replay, schedule_from_recorded
from runner.rings.replay import eager

CASES = sorted((DATA / "conformance").glob("*.json"))


def test_there_are_cases():
    assert len(CASES) >= 38


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_recorded_case(path):
    recorded = load_json(path)
    got = recorded_from_replay(eager(*schedule_from_recorded(recorded)))
    assert got["outcome"] == recorded["outcome"]
    assert got["records"] == recorded["records"]
    assert got["blocks"] == recorded["blocks"]
