"""Names for scopes that are written into graph files."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, count

from runner.writeback.bodies import Body, Written


def names_of_scopes(written: Written) -> Callable[[Body, tuple[int, int]], str]:
    """A function that names a new scope around items `[k, l)` of a body by what it holds.

    Nothing else of the file has the name, for `after:` may name that; the function gives none twice.
    """
    taken: dict[str, set[str]] = {}
    for text in written.bodies:
        if (mark := text.marks[0]) is not None:
            taken.setdefault(mark.file, set()).update(text.names)

    def name_of(body: Body, run: tuple[int, int]) -> str:
        mark = body.marks[0]
        assert mark is not None
        base = _plain_name(body, run)
        named = base if base.endswith("_scope") or base not in taken[mark.file] else f"{base}_scope"
        name = next(name for name in chain((named,), (f"{named}_{k}" for k in count(2))) if name not in taken[mark.file])
        taken[mark.file].add(name)
        return name

    return name_of


def _plain_name(body: Body, run: tuple[int, int]) -> str:
    """`qkv_scope` for one item, `t0_trip` for a whole trip; else the words that all ids begin with, else first and last id."""
    if body.kind == "iteration" and run == (0, body.num_items):
        return f"{body.label}_trip"
    names = [name for name, kind in zip(body.names[run[0] : run[1]], body.kinds[run[0] : run[1]], strict=True) if kind != "alloc"]
    names = names or list(body.names[run[0] : run[1]])
    if len(names) == 1:
        return f"{names[0]}_scope"
    words = [name.split("_") for name in names]
    shared = 0
    while all(len(w) > shared for w in words) and len({w[shared] for w in words}) == 1:
        shared += 1
    return "_".join(words[0][:shared]) if shared else f"{names[0]}_to_{names[-1]}"
