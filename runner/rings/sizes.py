"""This module owns the capacities of the four rings and how a user gives them: command line, then environment, then default."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from runner.base.errors import ConfigError
from runner.base.reading import MAX_DIGITS, shortened
from runner.rings.schedule import NUM_RINGS

DEFAULT_HEAP_BYTES = 256 * 2**20
DEFAULT_WINDOW = 16_384
DEFAULT_POOL = 16_384
MIN_HEAP_BYTES = 1024
MIN_WINDOW = 4
MIN_POOL = 4
SLOT_BYTES = 4968  # what a slot of a task window costs in device memory
POOL_ENTRY_BYTES = 24  # and an entry of the dependency pools: one for edges, one for those beyond 64 of a task
MAX_COUNT = 2**31 - 1  # windows and pools are 32-bit counters of the runtime

POOL_VARIABLE = "PTO2_RING_DEP_POOL"

_UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")

Four = tuple[int, int, int, int]


def is_window(value: int) -> bool:
    """Whether a task window may have so many slots."""
    return MIN_WINDOW <= value <= MAX_COUNT and not value & (value - 1)


@dataclass(frozen=True, slots=True)
class RingSizes:
    """Per ring: heap in bytes, task window in slots (a power of two), dependency pool in entries.

    `dropped` tells the variables of the environment that the runtime would not take, and what holds in their place.
    """

    heap: Four = (DEFAULT_HEAP_BYTES, DEFAULT_HEAP_BYTES, DEFAULT_HEAP_BYTES, DEFAULT_HEAP_BYTES)
    window: Four = (DEFAULT_WINDOW, DEFAULT_WINDOW, DEFAULT_WINDOW, DEFAULT_WINDOW)
    pool: Four = (DEFAULT_POOL, DEFAULT_POOL, DEFAULT_POOL, DEFAULT_POOL)
    dropped: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for ring in range(NUM_RINGS):
            heap, window, pool = self.heap[ring], self.window[ring], self.pool[ring]
            if heap < MIN_HEAP_BYTES:
                raise ConfigError(f"ring {ring}: heap of {heap:,} bytes, expected at least {MIN_HEAP_BYTES:,}")
            if not is_window(window):
                raise ConfigError(f"ring {ring}: task window of {window:,}, expected a power of two from {MIN_WINDOW} up")
            if not MIN_POOL <= pool <= MAX_COUNT:
                raise ConfigError(f"ring {ring}: dependency pool of {pool:,}, expected {MIN_POOL} to {MAX_COUNT:,} entries")

    @classmethod
    def resolve(
        cls,
        heap: str | None = None,
        window: str | None = None,
        pool: str | None = None,
        environ: Mapping[str, str] | None = None,
        known: RingSizes | None = None,
    ) -> RingSizes:
        """Sizes from the texts of the command line; a 0 or a missing text falls through to the environment, then the default.

        A text that is missing leaves what is `known`, as of a recorded program.
        On the command line a heap may carry a unit (`1GiB`, `512MiB,0,0,64KiB`); the environment holds plain integers and is
        read as the device runtime reads it: a variable with one bad entry, a 0 included, is dropped as a whole, and an empty
        one is not there. Raises ConfigError for the command line.
        """
        environ = os.environ if environ is None else environ
        texts = zip((heap, window, pool), VARIABLES, strict=True)
        found = [_resolve(text, variable, environ) for text, variable in texts]
        if known is not None:
            own = zip((heap, window, pool), (known.heap, known.window, known.pool), found, strict=True)
            found = [asked if text else (four, None) for text, four, asked in own]
        (heaps, windows, pools), warnings = zip(*found, strict=True)
        return cls(heaps, windows, pools, tuple(filter(None, warnings)))

    @classmethod
    def from_lists(cls, heap: Sequence[int] = (), window: Sequence[int] = (), pool: Sequence[int] = ()) -> RingSizes:
        """Sizes of a recorded program: four numbers each, 0 or nothing for the default; the environment plays no part."""

        def four(values: Sequence[int], what: str, default: int) -> Four:
            if values and len(values) != NUM_RINGS:
                raise ConfigError(f"{what}: got {len(values)} values, expected {NUM_RINGS}")
            return _four([value or default for value in values] or [default] * NUM_RINGS)

        return cls(
            four(heap, "ring_heap", DEFAULT_HEAP_BYTES),
            four(window, "ring_task_window", DEFAULT_WINDOW),
            four(pool, "ring_dep_pool", DEFAULT_POOL),
        )

    def warnings(self) -> list[str]:
        """What a user is told before anything runs: dropped variables, and heaps that shift later rings off their alignment."""
        shifted = [
            f"ring {ring}: a heap of {size:,} bytes is no multiple of {MIN_HEAP_BYTES:,}: all later rings lose their alignment"
            for ring, size in enumerate(self.heap[:-1])
            if size % MIN_HEAP_BYTES
        ]
        return [*self.dropped, *shifted]

    def memory(self) -> dict[str, int]:
        """Device memory of the rings of one rank in bytes: heaps, task windows, dependency pools, and all of it."""
        heap, window, pool = sum(self.heap), sum(self.window) * SLOT_BYTES, sum(self.pool) * POOL_ENTRY_BYTES
        return {"heap_bytes": heap, "window_bytes": window, "pool_bytes": pool, "total_bytes": heap + window + pool}

    def with_heap(self, heap: Sequence[int]) -> RingSizes:
        return replace(self, heap=_four(heap))


def parse_size(text: str) -> int:
    """`1GiB`, `512 MiB`, `65536` in bytes; raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if not match or match[2] not in _UNITS:
        raise ValueError(f"'{text}' is not a size; write bytes or a number with KiB, MiB or GiB")
    if len(match[1]) > MAX_DIGITS:
        raise ValueError(f"{shortened(match[1])} is too large")
    size = float(match[1]) * _UNITS[match[2]] if "." in match[1] else int(match[1]) * _UNITS[match[2]]
    if size != int(size):
        raise ValueError(f"'{text}' is not a whole number of bytes")
    return int(size)


@dataclass(frozen=True, slots=True)
class _Variable:
    """One of the three settings: its option, its default, the entries that the runtime takes, and how to say one."""

    name: str
    option: str
    default: int
    takes: Callable[[int], bool]
    said: str


VARIABLES = (
    _Variable("PTO2_RING_HEAP", "--ring-heap", DEFAULT_HEAP_BYTES, lambda n: n >= MIN_HEAP_BYTES, "bytes a ring"),
    _Variable("PTO2_RING_TASK_WINDOW", "--ring-window", DEFAULT_WINDOW, is_window, "slots a ring"),
    _Variable(POOL_VARIABLE, "--ring-pool", DEFAULT_POOL, lambda n: MIN_POOL <= n <= MAX_COUNT, "entries a ring"),
)


def _resolve(text: str | None, variable: _Variable, environ: Mapping[str, str]) -> tuple[Four, str | None]:
    """The option's values, zeros from the environment or the default; and what is to be said of a variable that was dropped."""
    given = _parse(variable.option, text, parse_size if variable.option == "--ring-heap" else _parse_int)
    env, warning = [0] * NUM_RINGS, None
    if environ.get(variable.name, "").strip():
        try:
            env = _parse(variable.name, environ[variable.name], _parse_int)
            bad = next((value for value in env if not variable.takes(value)), None)
            if bad is not None:
                raise ConfigError(f"{variable.name}={environ[variable.name]}: {bad:,} is not a value that the runtime takes")
        except ConfigError as error:
            env = [0] * NUM_RINGS
            warning = f"{error}: the variable is dropped, and the default of {variable.default:,} {variable.said} holds"
    return _four([g or e or variable.default for g, e in zip(given, env, strict=True)]), warning


def _parse(name: str, text: str | None, parse: Callable[[str], int]) -> list[int]:
    if text is None:
        return [0] * NUM_RINGS
    try:
        values = [parse(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{name}={text}: {error}") from None
    if len(values) not in (1, NUM_RINGS):
        raise ConfigError(f"{name}={text}: got {len(values)} values, expected one or {NUM_RINGS} (one per ring)")
    return values * (NUM_RINGS // len(values))


def _parse_int(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(f"'{text.strip()}' is not a non-negative integer")
    if len(text.strip()) > MAX_DIGITS:
        raise ValueError(f"{shortened(text.strip())} is an integer of more than 64 bits")
    return int(text)


def _four(values: Sequence[int]) -> Four:
    a, b, c, d = values
    return (a, b, c, d)
