"""Folders and functions stay small enough to read: the counts that `python tests/counts.py` prints."""

from counts import folders, functions, lines


def test_no_folder_is_crowded():
    assert {folder: count for folder, count in folders().items() if count > 12} == {}


def test_functions_fit_on_a_screen():
    long = functions()
    assert [name for length, name in long if length > 50] == []
    assert sum(length > 40 for length, _ in long) <= 5


def test_the_planner_can_be_read():
    assert lines("schedulers") <= 4000
