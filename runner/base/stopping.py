"""Long work that nobody waits for any more is given up: whoever does it asks, now and then, whether it still has a purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class StoppedError(Exception):
    """The work was given up."""


_is_needless: ContextVar[Callable[[], bool] | None] = ContextVar("_is_needless", default=None)


@contextmanager
def stopped_by(is_needless: Callable[[], bool]) -> Iterator[None]:
    """Inside, `stop_if_needless` raises StoppedError once `is_needless` says so."""
    token = _is_needless.set(is_needless)
    try:
        yield
    finally:
        _is_needless.reset(token)


def stop_if_needless() -> None:
    """Raises StoppedError where what is being done was given up."""
    asked = _is_needless.get()
    if asked is not None and asked():
        raise StoppedError
