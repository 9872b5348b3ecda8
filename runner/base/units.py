"""This module owns how bytes, times and long names are said to people: in the unit that fits, with as much as tells something."""

from __future__ import annotations

_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
_TIMES = (("s", 1e6), ("ms", 1e3), ("us", 1.0))


def byte_unit(size_bytes: float) -> tuple[str, int]:
    """The unit in which `size_bytes` is said, and how many bytes it has."""
    exponent = next((e for e in range(len(_BYTES)) if abs(size_bytes) < 1024 ** (e + 1)), len(_BYTES) - 1)
    return _BYTES[exponent], 1024**exponent


def human_bytes(size_bytes: float, digits: int = 1) -> str:
    """`12.5 MiB`, with `digits` behind the point; exact below 1 KiB. A difference may be negative."""
    if abs(size_bytes) < 1024:
        return f"{round(size_bytes):,} B"
    size = float(size_bytes)
    for unit in _BYTES[1:]:
        size /= 1024
        if abs(round(size, digits)) < 1024 or unit == _BYTES[-1]:
            return f"{size:,.{digits}f} {unit}"
    raise AssertionError


def human_us(time_us: float) -> str:
    """`12.35 ms` of a time in microseconds; `0 us` of none."""
    for unit, scale in _TIMES:
        if abs(time_us) >= scale:
            return f"{time_us / scale:,.2f} {unit}"
    return f"{time_us:.2f} us" if time_us else "0 us"


MOST_OF_A_NAME = 60
"""Characters that a picture shows of a name."""


def short_name(name: str, most: int = MOST_OF_A_NAME) -> str:
    """A name that a picture has room for: of a long one its begin and its end."""
    if len(name) <= most:
        return name
    end = (most - 3) // 2
    return f"{name[: most - 3 - end]}...{name[-end:]}"
