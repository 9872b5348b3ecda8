"""This module builds frozen records by the million."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

Record = TypeVar("Record")

LARGE = 20_000
"""Tasks above which what is made of them is put out of the collector's sight: one scan of it would take as long as the work."""


@dataclass_transform(frozen_default=True)
def open_record(cls: type[Record]) -> type[Record]:
    """A frozen dataclass whose instances keep the fields in slots, or are of a subclass that works some of them out.

    The class itself has no slots. Instances are equal where all fields are, however they are kept.
    """
    made: Any = dataclass(frozen=True, eq=False)(cls)
    names = [field.name for field in fields(made)]
    made.keeping = kept = type(cls.__name__, (made,), {"__slots__": names, "__module__": cls.__module__})
    values = attrgetter(*names)

    def new(kind: type[Record], *args: object, **kwargs: object) -> Any:
        return object.__new__(kept) if kind in (made, kept) else made(*args, **kwargs)  # `replace` asks for all fields

    made.__new__ = staticmethod(new)
    made.__eq__ = lambda one, other: values(one) == values(other) if isinstance(other, made) else NotImplemented
    made.__hash__ = lambda one: hash(values(one))
    return made


def working_out(**found: Callable[[Any], object]) -> Callable[[type[Record]], type[Record]]:
    """Says what a subclass of an open record finds its fields by; the others it names in its slots."""

    def with_properties(cls: type[Record]) -> type[Record]:
        for name, find in found.items():
            setattr(cls, name, property(find))
        return cls

    return with_properties


def builder(cls: type[Record]) -> Callable[..., Record]:
    """A constructor of a frozen dataclass with slots, or of one kind of an open record, that takes what is in slots by position.

    The constructor of such a class sets each field through `object.__setattr__`, which would be most of what an expansion does.
    This one fills an instance of a class with the same slots that is not frozen, and then says what it is. It is written out as
    text, as dataclasses are: a loop over the fields would take twice as long.
    """
    kept: Any = vars(cls).get("keeping", cls)
    names = list(kept.__slots__)
    lines = [f"def build({', '.join(names)}):", "record = new()", *(f"record.{name} = {name}" for name in names)]
    thawed = {"__slots__": names, "__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    twin: Any = type(cls.__name__, kept.__bases__, thawed)
    known = {"new": twin if kept.__bases__ == (object,) else partial(object.__new__, twin), "kept": kept}
    exec("\n    ".join([*lines, "record.__class__ = kept", "return record"]), known)
    return known["build"]


def give_back() -> None:
    """Hands the memory that is free to the system, where the C library can (glibc): what lies below something in use it keeps.

    Large programs ask for it between two stages, as arrays of the one leave gaps that the objects of the next do not fill.
    """
    import ctypes  # which most commands do without

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
