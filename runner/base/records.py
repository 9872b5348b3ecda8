"""This module builds frozen records by the million."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, make_dataclass
from typing import Any, TypeVar

Record = TypeVar("Record")

LARGE = 20_000
"""Tasks above which what is made of them is put out of the collector's sight: one scan of it would take as long as the work."""


def builder(cls: type[Record]) -> Callable[..., Record]:
    """A constructor of a frozen dataclass with slots that takes all fields by position.

    The constructor of such a class sets each field through `object.__setattr__`, which would be most of what an expansion does.
    This one fills an instance of a class with the same slots that is not frozen, and then says what it is.
    """
    twin = make_dataclass(cls.__name__, [(field.name, Any) for field in fields(cls)], slots=True)  # type: ignore[arg-type]

    def build(*values: Any) -> Record:
        record = twin(*values)
        record.__class__ = cls
        return record

    return build


@contextmanager
def collector_off() -> Iterator[None]:
    """Millions of objects are made here and none are cyclic garbage; scanning them again and again would take half the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
