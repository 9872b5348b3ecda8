"""What of a program can be put into lists, and what lists are to be like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from runner.base.errors import Mark
from runner.expansion.sharing.addresses import Made, made_in
from runner.expansion.sharing.texts import Texts
from runner.language.graph import Shared
from runner.program.lifetimes import Lives

NOWHERE = Mark("", 0)
"""Of entries that are in no file yet."""

Said = dict[str, tuple[Shared, ...]]
"""Per file what its list says."""


@dataclass(frozen=True)
class Scene:
    """What of a program can be put into lists.

    made      where its tensors are made, of those that lists may name
    members   per file the names of tensors, and the ids of used graphs that have lists
    others    the same of programs that the same graphs may become: whatever shares here must be able to share there
    """

    lives: Lives
    texts: Texts
    made: Mapping[int, Made]
    members: Mapping[str, Sequence[str]]
    others: tuple[Scene, ...] = ()

    @cached_property
    def used(self) -> set[tuple[str, str]]:
        """Files and entries that stand for used graphs."""
        return {(mark.file, use) for mark, (use, _) in self.texts.uses.items()}

    @cached_property
    def seen(self) -> dict[tuple[str, str], dict[int, Made]]:
        """By file and entry the tensors in it, and in which use and trips of that file: those of a used graph too."""
        found: dict[tuple[str, str], dict[int, Made]] = {}
        for tensor, at in self.made.items():
            while at.name in self.members.get(at.body.file, ()):
                found.setdefault((at.body.file, at.name), {})[tensor] = at
                if at.body.parent is None:
                    break
                at = Made(at.body.parent, at.body.use, at.body.values)
        return found

    @cached_property
    def lifted(self) -> dict[tuple[str, str], dict[str, dict[int, Made]]]:
        """By file and entry that stands for a used graph what is made in it, by what lists of that file call it: `ID.NAME`."""
        found: dict[tuple[str, str], dict[str, dict[int, Made]]] = {}
        for tensor, made in self.made.items():
            body, name = made.body, made.name
            for at in made.lifted:
                if name not in self.members.get(body.file, ()):
                    break  # that list could not have it
                body, name = at.body, body.use
                key = at.body.file, at.name.partition(".")[0]
                found.setdefault(key, {}).setdefault(at.name, {})[tensor] = at
        return found

    def named(self, file: str, name: str) -> dict[int, Made]:
        """The tensors of an entry that stands for one in each trip, of a used graph or not."""
        return self.seen.get((file, name)) or self.lifted.get((file, name.partition(".")[0]), {}).get(name, {})


def scene_of(lives: Lives, texts: Texts, may_write: Callable[[str], bool], others: Sequence[Lives] = ()) -> Scene:
    """What may be listed: tensors of files that may be written, and uses of graphs that have any."""
    scenes = [_scene(one, texts, may_write) for one in (lives, *others)]
    members = {
        file: tuple(dict.fromkeys(name for scene in scenes for name in scene.members.get(file, ())))
        for file in dict.fromkeys(file for scene in scenes for file in scene.members)
    }
    first, *rest = (replace(scene, members=members) for scene in scenes)
    return replace(first, others=tuple(rest))


def _scene(lives: Lives, texts: Texts, may_write: Callable[[str], bool]) -> Scene:
    names: dict[str, dict[str, None]] = {}
    uses: dict[str, dict[str, None]] = {}
    kept: dict[int, Made] = {}
    for tensor, at in made_in(lives.program, texts).items():
        if at.body.file in texts.graphs and may_write(at.body.file) and not at.name.startswith("."):
            names.setdefault(at.body.file, {})[at.name] = None
            kept[tensor] = at
            body = at.body
            while body.parent is not None and may_write(body.parent.file) and body.use:
                uses.setdefault(body.parent.file, {})[body.use] = None
                body = body.parent
    members = {
        file: [*names.get(file, ()), *(use for use in uses.get(file, ()) if use not in names.get(file, ()))]
        for file in dict.fromkeys((*names, *uses))
    }
    return Scene(lives, texts, kept, members)


Bar = tuple[str, str, str]


@dataclass(frozen=True)
class Taste:
    """What lists are to be like.

    patience   microseconds that a tensor may wait for the bytes of another
    width      how many trips lie side by side, as a part of those that are in use at once on average in the run
    apart      up to this part of all sizes, tensors do not share with used graphs of which something would wait
    pooled     copies of what is in use for a short part of a trip, as a multiple of those that are in use at once on average
    bars       what does not share, though it might: file, entry, and another or `ID.NAME` for one inside of another
    more       by how much more copies of an entry, or of the group that it is in, lie side by side: file, entry, factor
    counts     copies of entries in place of those that width gives: file, entry, copies
    uses       used graphs in loops have copies too
    lifts      what used graphs make in loops whose trips run side by side has entries of its own, copies one by one
    lazy       for which part of the time that the begin of its first use may be put off, for all that waits for it, a tensor may
               wait for the bytes of another, as of what an op fills early
    rings      large tensors of such trips pass through the bytes of one ring, whichever of them and of the trips they are
    alone      tensors of trips side by side have copies one by one, each as many as are in use at once, and are in no group
    """

    patience: float
    width: float = 1.0
    apart: float = 0.0
    pooled: float = 2.0
    bars: frozenset[Bar] = frozenset()
    more: tuple[tuple[str, str, float], ...] = ()
    counts: tuple[tuple[str, str, int], ...] = ()
    uses: bool = False
    alone: bool = False
    lifts: bool = False
    rings: bool = False
    lazy: float = 0.0
