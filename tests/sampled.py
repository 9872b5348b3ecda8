"""Parametrised cases of which a sample is in `make test`, and all others in `make test-slow`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest


def sampled(cases: Iterable, kept: Callable[[object], bool] | Iterable) -> list:
    """All `cases` for `parametrize`, slow but for those that `kept` holds (or holds for).

    A tuple is a case of several arguments.
    """
    of_sample = kept if callable(kept) else [*kept].__contains__
    every = [*cases]
    assert any(of_sample(case) for case in every), "nothing would be tried by default"
    values = [case if isinstance(case, tuple) else (case,) for case in every]
    marks = [() if of_sample(case) else (pytest.mark.slow,) for case in every]
    return [pytest.param(*value, marks=mark) for value, mark in zip(values, marks, strict=True)]
