"""This module owns what a strategy asks a graph's files to say: scopes around runs of items, told by marks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runner.base.errors import Mark


@dataclass(frozen=True, slots=True)
class WrittenScope:
    """A scope around the items from `first` to `last` of one body. `hoisted` are the marks of tensors that are made inside and
    used after it: allocs just before the scope, one for each group, make them instead."""

    name: str
    first: Mark
    last: Mark
    hoisted: tuple[tuple[Mark, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Annotations:
    """New scopes, outer ones before inner ones, and the marks of scopes to take out."""

    scopes: tuple[WrittenScope, ...] = ()
    dropped: tuple[Mark, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.scopes or self.dropped)


Run = tuple[Mark, Mark]
"""The first and the last of items side by side."""


@dataclass(frozen=True, slots=True)
class Demands:
    """What texts demand beside what is seen in their program: `barred` are runs of items that no scope may hold, and of which a
    dropped scope is one; of a file that `may_write` denies, nothing may change."""

    barred: frozenset[Run] = frozenset()
    may_write: Callable[[str], bool] = lambda file: True


NO_DEMANDS = Demands()
