"""Random edits of graph texts, as people make them while they type."""

from __future__ import annotations

import random
import re

_TYPED = [
    "",
    "x",
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
    ":",
    ": ",
    "\n",
    "  ",
    "- ",
    " #",
    "&a ",
    "*a",
    "|\n",
    ",",
    "\t",
    "\u00e9",
    "- op: ",
    "0x1",
    "{{",
]


def mutated(text: str, chance: random.Random) -> str:
    """The text after one edit: a word cut short or misspelt, something typed, a line gone, twice, or elsewhere."""
    lines = text.split("\n")
    number = chance.randrange(len(lines))
    match chance.randrange(8):
        case 0 | 1:
            words = [found.span() for found in re.finditer(r"\w+", text)]
            start, end = chance.choice(words) if words else (0, 0)
            at = chance.randint(start, end)
            return text[:at] + chance.choice(["", "q", "_"]) + text[min(end, at + chance.randint(0, 2)) :]
        case 2 | 3:
            at = chance.randrange(len(text) + 1)
            return text[:at] + chance.choice(_TYPED) + text[at + chance.choice([0, 0, 1, 3]) :]
        case 4:
            return "\n".join(lines[:number] + lines[number + chance.randint(1, 3) :])
        case 5:
            return "\n".join([*lines[: number + 1], *lines[number:]])
        case 6:
            moved = chance.choice([" ", "  "])
            line = lines[number].removeprefix(moved) if chance.random() < 0.5 else moved + lines[number]
            return "\n".join([*lines[:number], line, *lines[number + 1 :]])
        case _:
            return "\n".join([*lines[:number], lines[number][: chance.randrange(len(lines[number]) + 1)]])
