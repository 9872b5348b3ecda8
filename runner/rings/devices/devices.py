"""This module reads device presets: workers, clock, how retirement is made known, and how long a run may stand still.

A preset is a YAML file beside this module; `a2a3.yaml` says what each field means.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files

import yaml

from runner.base.errors import ConfigError, did_you_mean


@dataclass(frozen=True, slots=True)
class Device:
    """A device; times in microseconds.

    publish_every  retirements after which the oldest live task of a ring is made known to the submitting thread; it also is when
                   the ring is empty, and `ask_us` after a submission has begun to wait
    stall_us       a wait in which nothing retires on the ring ends the run with code 2, in which no entry of the tensormap
                   gets free with code 11
    host_read_us   a longer read of a value ends the run with code 8
    """

    name: str
    aic: int
    aiv: int
    clock_hz: int
    publish_every: int
    ask_us: float
    stall_us: float
    host_read_us: float


_FOLDER = files("runner.rings.devices")


def device_names() -> list[str]:
    """The presets that there are."""
    return sorted(path.name.removesuffix(".yaml") for path in _FOLDER.iterdir() if path.name.endswith(".yaml"))


@cache
def device(name: str) -> Device:
    """A preset by name, in any case of letters; raises ConfigError for one that is none."""
    known = device_names()
    if name.lower() not in known:
        raise ConfigError(f"no device is called '{name}'", hint=did_you_mean(name.lower(), known) or f"known: {', '.join(known)}")
    values = yaml.safe_load(_FOLDER.joinpath(f"{name.lower()}.yaml").read_text(encoding="utf-8"))
    return Device(**{field.name: values[field.name] for field in fields(Device)})
