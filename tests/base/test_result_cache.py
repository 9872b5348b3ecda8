"""Kept results: whole, bounded, and never an error."""

import os
from pathlib import Path
from threading import Thread

import pytest

from runner.base.result_cache import ResultCache, cache_folder


def test_what_is_kept_is_found_again(tmp_path):
    cache = ResultCache(tmp_path / "a" / "b")
    assert cache.get("k") is None
    cache.put("k", "text\nof two lines, \u00e4")
    assert ResultCache(tmp_path / "a" / "b").get("k") == "text\nof two lines, \u00e4" and cache.get("other") is None
    assert [path.suffix for path in (tmp_path / "a" / "b").iterdir()] == [".result"]


@pytest.mark.parametrize("damage", [b"", b"x", b"\n", None])
def test_a_damaged_entry_is_not_there_and_is_written_anew(damage, tmp_path):
    cache = ResultCache(tmp_path)
    cache.put("k", "a text")
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    assert cache.get("k") is None
    cache.put("k", "a text")
    assert cache.get("k") == "a text"


def test_bytes_are_bounded_and_what_was_read_longest_ago_goes_first(tmp_path):
    cache = ResultCache(tmp_path, max_bytes=3_000)
    for index, key in enumerate("abc"):
        cache.put(key, key * 900)
        for path in tmp_path.iterdir():
            if path.read_bytes().endswith(key.encode()):
                os.utime(path, (index, index))
    assert cache.get("a") == "a" * 900  # read just now
    cache.put("d", "d" * 900)
    assert [cache.get(key) is not None for key in "abcd"] == [True, False, True, True]
    cache.put("large", "x" * 4_000)
    assert cache.get("large") is None
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3_000


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to itself", "link to a device"])
def test_an_entry_that_is_no_file_is_not_there_and_stays(kind, tmp_path):
    cache = ResultCache(tmp_path)
    cache.put("k", "a text")
    (path,) = tmp_path.iterdir()
    path.unlink()
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "link to itself":
            path.symlink_to(path)
        case "link to a device":
            path.symlink_to("/dev/zero")
    found = []
    asking = Thread(target=lambda: found.extend([cache.get("k"), cache.put("k", "a text"), cache.get("k")]), daemon=True)
    asking.start()
    asking.join(20)
    assert found == [None, None, None], "it did not end, or raised"
    assert [child.name for child in tmp_path.iterdir()] == [path.name] and (path.is_symlink() or not path.is_file())


def test_a_folder_that_cannot_be_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", None):
        cache = ResultCache(folder)
        cache.put("k", "text")
        assert cache.get("k") is None


@pytest.mark.parametrize(
    "platform, env, expected",
    [
        ("linux", {}, ".cache/ringgraph"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, ".cache/ringgraph"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/ringgraph"),
        ("darwin", {"XDG_CACHE_HOME": "/x"}, "Library/Caches/ringgraph"),
        ("win32", {}, "AppData/Local/ringgraph/Cache"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/ringgraph/Cache"),
        ("linux", {"RINGGRAPH_CACHE": "/mine", "XDG_CACHE_HOME": "/x"}, "/mine"),
    ],
)
def test_the_folder_is_the_platforms(platform, env, expected):
    assert cache_folder(env, platform) == Path.home() / expected
