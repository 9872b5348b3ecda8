"""This module builds frozen records by the million."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar

Record = TypeVar("Record")

LARGE = 20_000
"""Tasks above which what is made of them is put out of the collector's sight: one scan of it would take as long as the work."""


def builder(cls: type[Record]) -> Callable[..., Record]:
    """A constructor of a frozen dataclass with slots that takes all fields by position.

    The constructor of such a class sets each field through `object.__setattr__`, which would be most of what an expansion does.
    This one fills an instance of a class with the same slots that is not frozen, and then says what it is. It is written out as
    text, as dataclasses are: a loop over the fields would take twice as long.
    """
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    lines = [f"def build({', '.join(names)}):", "record = twin()", *(f"record.{name} = {name}" for name in names)]
    known: dict[str, Any] = {"twin": type(cls.__name__, (), {"__slots__": names}), "cls": cls}
    exec("\n    ".join([*lines, "record.__class__ = cls", "return record"]), known)
    return known["build"]


def give_back() -> None:
    """Hands the memory that is free to the system, where the C library can (glibc): what lies below something in use it keeps.

    Large programs ask for it between two stages, as arrays of the one leave gaps that the objects of the next do not fill.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


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
