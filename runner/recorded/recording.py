"""This module owns the recording: a program that nobody wrote as a graph, as its source says it, before anything is derived.

All readers of foreign programs come to it: the conformance format, traces, and captures of a device. From it come the schedule
as recorded and a `Program` that strategies can place anew.

    Recording --edges, scopes as they were--> Schedule     what the device ran
    Recording --edges, scopes as a tree-----> Program      what may be planned again
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.base.errors import Mark
from runner.rings.schedule import Step
from runner.rings.sizes import RingSizes

OUTSIDE = -1
"""The tensor of an argument that the program does not create."""

MODES = ("input", "inout", "existing", "no_dep")
"""How a submission takes an argument: read; read and written; written and not read; with a creator edge only."""


@dataclass(frozen=True, slots=True)
class RecordedTensor:
    """A tensor that a submission creates: bytes before rounding where the source says them, else the block's share.

    `manual_dep` tensors get creator edges only, for their whole life. `exact` is False where the bytes are a guess.
    """

    name: str
    size_bytes: int
    manual_dep: bool = False
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Argument:
    """A part of a tensor that a submission uses and did not create: bytes `[offset_bytes, offset_bytes + size_bytes)` of it.

    `tensor` indexes `Recording.tensors`; for `OUTSIDE` tensors `name` tells them apart. `size_bytes` None means to the end.
    """

    tensor: int
    mode: str = "input"
    offset_bytes: int = 0
    size_bytes: int | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class RecordedSubmission:
    """One submission in order. `kind` is alloc, aiv, aic, mix or dummy.

    `creates` indexes `Recording.tensors`, in block order. `after` and `after_wait_only` are explicit edges: the first keep the
    producer's block and slot until this submission has completed, the second only wait. `waits` are all edges where the source
    tells them (a capture, a trace), None where the rules derive them from arguments. `duration_us` is how long its task ran,
    `block_us` how long one of its blocks did, `submit_us` what submitting it cost; None where the source does not tell.
    """

    name: str
    kind: str
    creates: tuple[int, ...] = ()
    arguments: tuple[Argument, ...] = ()
    after: tuple[int, ...] = ()
    after_wait_only: tuple[int, ...] = ()
    waits: tuple[int, ...] | None = None
    holds: tuple[int, ...] | None = None
    duration_us: float | None = None
    submit_us: float | None = None
    num_blocks: int = 1
    block_us: float | None = None
    mark: Mark | None = None

    @property
    def is_alloc(self) -> bool:
        return self.kind == "alloc"


@dataclass(frozen=True, slots=True)
class RecordedScope:
    """A scope as recorded; its `site` (`orch.cpp:88`) is its name. The root is scope 0."""

    site: str
    depth: int
    mode: str = "auto"
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class Recording:
    """A program as its source tells it.

    `steps` holds Begin, End, Submit and Read steps over `scopes` and `submissions`, the root's Begin first.
    `estimated` names what is a guess, and why. `events` are completions and submissions in their order where the source dictates
    progress (`progress` is then `steps`), as `(what, ring, number on the ring)`; `completions` says the same by step: the
    submissions that completed just before `steps[k]`.
    """

    name: str
    file: str
    tensors: tuple[RecordedTensor, ...]
    submissions: tuple[RecordedSubmission, ...]
    scopes: tuple[RecordedScope, ...]
    steps: tuple[Step, ...]
    sizes: RingSizes = field(default_factory=RingSizes)
    progress: str = "eager"
    events: tuple[tuple[str, int, int], ...] = ()
    estimated: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    completions: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
