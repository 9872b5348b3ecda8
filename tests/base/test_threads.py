"""Threads of an op by default: no more than processors that are ours and idle."""

import os

import pytest

from runner.base import threads


@pytest.mark.parametrize(
    ("text", "load", "usable", "free"),
    [
        ("max 100000", 0.2, 8, 8),
        ("400000 100000", 0.0, 4, 4),
        ("50000 100000", 0.0, 1, 1),
        ("1600000 100000", 0.6, 8, 7),
        ("max 100000", 6.4, 8, 2),
        ("max 100000", 31.0, 8, 1),
        ("nonsense", 0.0, 8, 8),
    ],
)
def test_processors_by_affinity_quota_and_load(text, load, usable, free, tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    assert threads.usable_processors(tmp_path) == usable
    assert threads.free_processors(tmp_path) == free


def test_without_a_control_group_or_loads(tmp_path, monkeypatch):
    def unknown():
        raise OSError

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3})
    monkeypatch.setattr(os, "getloadavg", unknown)
    assert threads.free_processors(tmp_path / "none") == 2


def test_what_is_set_stays(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("KMP_BLOCKTIME", raising=False)
    threads.prepare()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE" and os.environ["KMP_BLOCKTIME"] == "0"
