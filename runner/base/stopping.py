"""Long work that nobody waits for any more is given up: whoever does it asks, now and then, whether it still has a purpose."""

from __future__ import annotations

import signal
import threading
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


@contextmanager
def ended_as_interrupted() -> Iterator[None]:
    """Inside, SIGTERM (of `timeout`, say) raises KeyboardInterrupt as Ctrl-C does, unless it is ignored."""
    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
