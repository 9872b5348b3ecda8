"""A `Graph` is a file as written: frozen, with the place of every name, and nothing evaluated.

Texts that hold expressions (`range`, dims, `switch`) are kept as `Text`, which `runner.language.expressions` parses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from runner.base.errors import Mark


@dataclass(frozen=True, slots=True)
class Text:
    """A scalar of the file and where it stands."""

    value: str
    mark: Mark

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Declaration:
    """`name: dtype[dims]`, of an input, weight, state, output, alloc or created tensor.

    `source` is where a weight or state comes from (`layers.{layer}.norm.weight`); `stack` names the placeholder that runs
    over the leading dimension (`part`: the parts of this rank), `shard` the dimension that is split over ranks.
    """

    name: str
    spec: Text
    mark: Mark
    source: Text | None = None
    stack: str | None = None
    shard: int | None = None


@dataclass(frozen=True, slots=True)
class Op:
    """`outputs` maps an operand to a Declaration (a new tensor) or a Text (an existing tensor or a slice of it).

    `after` and `after_wait_only` name explicit edges: the first keep the blocks of what they name, the second only wait. `modes`
    names operands for which less is inferred: `existing`, `no_dep` or `manual_dep`.
    """

    op: Text
    id: str
    mark: Mark
    inputs: Mapping[str, Text] = field(default_factory=dict)
    outputs: Mapping[str, Declaration | Text] = field(default_factory=dict)
    attrs: Mapping[str, Text] = field(default_factory=dict)
    after: tuple[Text, ...] = ()
    doc: str = ""
    device: str | None = None
    after_wait_only: tuple[Text, ...] = ()
    modes: Mapping[str, Text] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Alloc:
    tensors: tuple[Declaration, ...]
    mark: Mark
    doc: str = ""
    id: str = "alloc"


@dataclass(frozen=True, slots=True)
class Seen:
    """`view`: the tensor, slice or part `of` under another type and a name of its own; no task, and no bytes."""

    name: str
    of: Text
    spec: Text
    mark: Mark
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    name: str
    body: tuple[Item, ...]
    mark: Mark
    mode: str = "auto"
    doc: str = ""


@dataclass(frozen=True, slots=True)
class For:
    """Static when `maximum` is None. `carry`: after each trip the name on the left stands for that trip's tensor on the right."""

    variable: str
    range: Text
    body: tuple[Item, ...]
    mark: Mark
    maximum: Text | None = None
    doc: str = ""
    carry: Mapping[str, Text] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Switch:
    """`switch`: cases by integer (`default` under None). `if` is a switch with `then` at 1 and `else` at 0."""

    value: Text
    cases: Mapping[int | None, tuple[Item, ...]]
    mark: Mark
    keyword: str = "switch"


@dataclass(frozen=True, slots=True)
class Use:
    """Another graph spliced in. `bindings` (`with:`) map its inputs, outputs and parameters to names and expressions here."""

    graph: Text
    id: str
    mark: Mark
    bindings: Mapping[str, Text] = field(default_factory=dict)
    doc: str = ""


Item = Op | Alloc | Seen | Scope | For | Switch | Use


EVERY = ""
"""In place of a loop's variable: all loops around an entry together."""


@dataclass(frozen=True, slots=True)
class Shared:
    """An entry of `share:`. It names a tensor, the id of a used graph, `ID.NAME` for scratch of the op ID or for an entry of the
    list of the used graph ID, which lies here in place of there, or a group of entries.

    replaces   entries whose bytes it takes when they are done
    copies     by variable of a loop around it, how many trips have bytes of their own; the next ones take these in turn. By
               `EVERY` how many of the trips that are made, whichever loops around it they are of
    inside     of a group the entries that lie in it, None if it is none
    apart      entries, or `ID.NAME` for one inside of the entry ID, that it never shares bytes with, though it might
    ring       of a group through whose bytes its tensors pass in turn, as large as how many of the largest it is; 0 of others
    """

    name: str
    mark: Mark
    replaces: tuple[Text, ...] = ()
    copies: Mapping[str, int] = field(default_factory=dict)
    inside: tuple[Shared, ...] | None = None
    apart: tuple[Text, ...] = ()
    ring: int = 0


def flat(entries: Iterable[Shared]) -> Iterator[Shared]:
    """Entries, and those inside of groups."""
    for entry in entries:
        yield entry
        yield from flat(entry.inside or ())


@dataclass(frozen=True, slots=True)
class Graph:
    """A whole file. `deploy` is the deployment that it is for, None for the default one. `share` are the
    tensors that lie in one block, from its bottom to its top.

    `lines` is its text, for messages; `comments` begin with their `#`.
    """

    name: str
    file: str
    mark: Mark
    body: tuple[Item, ...]
    doc: str = ""
    params: Mapping[str, Text] = field(default_factory=dict)
    inputs: Mapping[str, Declaration] = field(default_factory=dict)
    weights: Mapping[str, Declaration] = field(default_factory=dict)
    state: Mapping[str, Declaration] = field(default_factory=dict)
    outputs: Mapping[str, Declaration] = field(default_factory=dict)
    deploy: Text | None = None
    share: tuple[Shared, ...] = ()
    lines: tuple[str, ...] = field(default=(), repr=False, compare=False)
    comments: tuple[Text, ...] = field(default=(), repr=False, compare=False)
