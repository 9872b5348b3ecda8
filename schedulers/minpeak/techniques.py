"""What the planner can do to find a better plan: each technique has a name, a switch, and two lines that say why it is there.

The option `techniques={"folding": False}` switches one off. Every combination yields a correct plan, maybe a larger one: the
graph's own scopes are a candidate whatever is off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.base.errors import ConfigError, did_you_mean

_TABLE = """
folding
    Of a loop whose trips are alike, two stand for all, in programs of more than 4,000 tasks.
    Planning time grows with the kinds of layers: of 621,521 tasks of a prefill 6,259 are decided, in a second.
orders
    First fit places tensors in five orders, not only the largest first; the lowest arena is kept.
    On shipped graphs the largest first reaches the lower bound; rectangles cut at random get up to 18 % lower by the others.
learning
    Tensors that end too high move forward in the order, and first fit tries again, up to 500 times.
    For what is hard to pack: rectangles cut at random get another 5 to 16 % lower, shipped graphs need none of it.
level_arenas
    For the objective worst, arenas of one height lie on as many rings as can stay open.
    The largest ring falls to a quarter of one arena, or to its largest tensor.
spread
    Inside the height of the lowest arena, tensors that are in use at once get bytes of their own.
    It costs no bytes and saves waiting for the former tenants of bytes.
grouping
    Up to 64 trips of a folded loop get bytes of their own, where the bytes allow it.
    Trips that share no bytes run side by side.
apart
    In programs of at most 40 tasks, scopes without sharing are a candidate beside an arena.
    They use all four rings, where an arena leaves three idle, of 1,024 bytes each: never worse than --no-share there.
pruning
    Reuse edges that other edges imply are left out.
    Fewer edges fit into the dependency pools and are sooner checked; no task starts later.
balance
    In programs of up to 60,000 tasks timed runs under budgets of bytes say when tensors are in use, and places follow them.
    Decode of flash on 8 ranks takes 9.3 MiB where it takes 6.7 in 4.2 times the time, and 12.9 without sharing.
delay
    In longer programs, within a budget, only tensors that begin some time after the last use of bytes use them again.
    More bytes buy a shorter run: seven delays are tried, each with as many trips side by side as fit.
intervals
    Without sharing, scopes come from dynamic programming over the boundaries of the program's bodies.
    Streams that layers hand on are released in groups of layers: a quarter to a half of the bytes of the scopes as written.
bodies
    Without sharing, trips of loops are intervals of their own, and bodies that are alike are solved once.
    Scopes lie inside trips, too; without, a loop's trip is held as a whole.
climbing
    Without sharing, in programs of at most 400 tasks single tensors are hoisted to other depths, then some at random.
    Intervals put every tensor as deep as it goes; further out there may be room beside what another moment needs.
proof
    Without sharing, programs of at most 12 tasks get a search over all scopes that ends with a proof.
    The certificate then says search, and a gap of 0.
written
    For --write, scopes around runs of items of the files are searched, by covers for capacities of the rings.
    Half the bytes of the scopes as written for decode, a fifth less for prefill.
trimming
    For --write, scopes that save less than 3 % of what the graph takes are left out again.
    People read the files, and a scope that saves next to nothing is in their way.
strategies
    The strategies unscoped, auto, autoscope and manual are candidates too, manual with all edges.
    The plan is then never worse than theirs.
batching
    The strategies are also tried with blocks of up to 16 tensors, as the compiler makes them.
    Fewer submissions, other wrap gaps; the plan is then never worse than theirs with --batch-allocs.
bounds
    The search ends when a lower bound says that no candidate that is left is better.
    It changes no result and saves lowering the other strategies, most of the time of a large plan.
chains
    Without sharing, the lower bound counts tensors that are handed on from task to task.
    Above the peak of live bytes for chains: smaller gaps, and an earlier end of the search.
"""


@dataclass(frozen=True)
class Technique:
    """`why` is two lines: what it does, and what it is good for. All are on unless the user switches them off."""

    name: str
    why: tuple[str, str]


def _read(lines: Sequence[str]) -> tuple[Technique, ...]:
    return tuple(Technique(name, (what.strip(), gain.strip())) for name, what, gain in zip(*[iter(lines)] * 3, strict=True))


TECHNIQUES = _read(_TABLE.strip().splitlines())
"""In the order in which the planner comes to them."""

Techniques = frozenset[str]
"""Names of the techniques that are on."""

ALL: Techniques = frozenset(technique.name for technique in TECHNIQUES)


def chosen(switches: Mapping[str, bool]) -> Techniques:
    """All techniques but those switched off; raises ConfigError for a name that is none."""
    for name in switches:
        if name not in ALL:
            hint = did_you_mean(name, sorted(ALL)) or f"one of {', '.join(t.name for t in TECHNIQUES)}"
            raise ConfigError(f"unknown technique '{name}'", hint=hint)
    return ALL - {name for name, on in switches.items() if not on}
