"""What a finding prints of the line that it is about."""

import random

import pytest

from runner.base.errors import MOST_OF_A_LINE, Diagnostic, Mark


def printed(line, column):
    _, shown, caret = str(Diagnostic("X100", "wrong", Mark("f", 1, column), source_line=line)).splitlines()
    assert caret.strip() == "^"
    return shown, len(caret) - 1


@pytest.mark.parametrize("seed", range(50))
def test_the_caret_stands_under_its_place_in_lines_of_any_length(seed):
    """The character under the caret, and what is around it, are the line's own; never more than a screen holds is printed."""
    rng = random.Random(seed)
    line = "".join(chr(rng.randrange(33, 127)) for _ in range(rng.choice([1, 5, 159, 160, 161, 300, 10_000])))
    for column in {1, len(line), len(line) // 2 + 1, rng.randint(1, len(line))}:
        shown, at = printed(line, column)
        assert shown[at] == line[column - 1]
        assert len(shown) <= MOST_OF_A_LINE + len("... ") * 2
        kept = max(shown.split(" "), key=len)  # the line has no spaces
        assert kept in line and len(kept) == min(len(line), MOST_OF_A_LINE)
        near = line[max(0, column - 20) : column + 20]
        assert near in shown


def test_a_short_line_is_printed_whole():
    assert printed("a: b  ", 4) == ("a: b", 3)


def test_a_place_behind_the_end_of_a_long_line():
    shown, at = printed("x" * 500, 501)
    assert shown == "... " + "x" * MOST_OF_A_LINE and at == len(shown)
