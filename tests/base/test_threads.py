"""Threads of an op by default: no more than processors that are ours and idle."""

import os
from types import SimpleNamespace

import pytest
import torch

from runner.base import threads
from runner.driver.driver import set_threads
from runner.ranks import launch


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


@pytest.mark.parametrize(
    ("membership", "files", "usable"),
    [
        ("0::/user/job", {"user/job/cpu.max": "300000 100000"}, 3),
        ("0::/user/job", {"user/cpu.max": "200000 100000", "user/job/cpu.max": "max 100000"}, 2),
        ("0::/user/job", {"other/cpu.max": "100000 100000"}, 8),
        ("0::/../../x", {"cpu.max": "400000 100000", "x/cpu.max": "100000 100000"}, 4),
        ("4:memory:/a\n3:cpu,cpuacct:/a/b", {"cpu,cpuacct/a/cpu.cfs_quota_us": "250000"}, 2),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1"}, 8),
        ("1:cpu:/docker/1", {"cpu/cpu.cfs_quota_us": "600000"}, 6),
        ("no lines", {"cpu.max": "500000 100000"}, 5),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "x", "cpu.max": "0 0"}, 8),
    ],
)
def test_quotas_of_all_groups_around_the_process(membership, files, usable, tmp_path, monkeypatch):
    """Of both versions, in a container that sees its own group as the root as well."""
    own = tmp_path / "membership"
    own.write_text(membership)
    for name, text in files.items():
        file = tmp_path / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        if file.name == "cpu.cfs_quota_us":
            file.with_name("cpu.cfs_period_us").write_text("100000")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert threads.usable_processors(tmp_path / "groups", own) == usable


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("1", True),
        (" 8 ", True),
        ("4,2", True),
        ("", False),
        ("0", False),
        ("-1", False),
        ("abc", False),
        ("1.5", False),
        ("\u0663", False),
    ],
)
def test_only_a_number_of_threads_says_how_many(text, given):
    assert threads.is_given({"OMP_NUM_THREADS": text}) == given and not threads.is_given({})


def test_what_is_no_number_leaves_the_default(monkeypatch):
    monkeypatch.setattr(threads, "free_processors", lambda: 1)
    made = []
    monkeypatch.setattr(torch, "set_num_threads", made.append)
    wide = SimpleNamespace(family=SimpleNamespace(is_narrow=lambda _: False))
    for text in ("abc", "0", ""):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        set_threads(None, wide)
        with launch._environment("folder", 2):
            assert os.environ["OMP_NUM_THREADS"] == "1"
    assert made == [1, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    set_threads(None, wide)
    with launch._environment("folder", 2):
        assert os.environ["OMP_NUM_THREADS"] == "7"
    assert made == [1, 1, 1]


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
