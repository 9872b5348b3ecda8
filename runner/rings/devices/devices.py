"""This module reads devices: workers, rates, clock, how retirement is made known, how long a run may stand still, limits.

A preset is a YAML file beside this module; `a2a3.yaml` says what each field means, and where it comes from. A file of the user's
has the same fields; what it leaves out is as on the device that it is `like`, `a2a3` if it does not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from runner.base.errors import ConfigError, Diagnostic, Mark, did_you_mean
from runner.base.reading import file_bytes
from runner.language.given import Given, describe, read_layer
from runner.rings.defaults import DEVICE, MOST_US

MAX_FILE_BYTES = 1 << 16
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Rates:
    """Nominal rates of one core of a device, and what every task costs beside its work."""

    aic_flops_per_us: float
    aiv_flops_per_us: float
    bytes_per_us: float
    task_us: float


@dataclass(frozen=True, slots=True)
class Device:
    """A device; times in microseconds, rates of one core.

    publish_every  retirements after which the oldest live task of a ring is made known to the submitting thread; it also is when
                   the ring is empty, and `ask_us` after a submission has begun to wait
    stall_us       a wait in which nothing retires on the ring ends the run with code 2, in which no entry of the tensormap
                   gets free with code 11
    host_read_us   a longer read of a value ends the run with code 8
    submit_us      what one submission costs the submitting thread
    max_...        what `ringgraph placement` holds a plan against
    """

    name: str
    aic: int
    aiv: int
    clock_hz: int
    publish_every: int
    ask_us: float
    stall_us: float
    host_read_us: float
    submit_us: float
    task_us: float
    aic_flops_per_us: float
    aiv_flops_per_us: float
    bytes_per_us: float
    max_tensors: int
    max_scopes: int
    max_block_bytes: int
    tensormap_entries: int

    @property
    def rates(self) -> Rates:
        return Rates(self.aic_flops_per_us, self.aiv_flops_per_us, self.bytes_per_us, self.task_us)


_FOLDER = files("runner.rings.devices")
_LEAST = {"aiv": 2, "ask_us": 0, "submit_us": 0, "task_us": 0}
"""The least values, where they are not 1: a task of both kinds takes one cube core and two vector cores."""
_WORDS = {"name", "like", "sources"}


def device_names() -> list[str]:
    """The presets that there are."""
    return sorted(path.name.removesuffix(".yaml") for path in _FOLDER.iterdir() if path.name.endswith(".yaml"))


def device_file(name: str) -> Path | None:
    """The file of the user's that a device's name stands for; None for a preset."""
    return Path(name) if name.lower() not in device_names() and (name.endswith(_SUFFIXES) or "/" in name) else None


def device(name: str) -> Device:
    """A preset by name, in any case of letters, or a YAML file by path; raises ConfigError."""
    path = device_file(name)
    return _preset(name.lower()) if path is None else _read(file_text(path), str(path), path.stem)


@cache
def _preset(name: str) -> Device:
    known = device_names()
    if name not in known:
        hint = did_you_mean(name, known) or f"known: {', '.join(known)}; a device of your own is a file, NAME.yaml"
        raise ConfigError(f"no device is called '{name}'", hint=hint)
    place = _FOLDER.joinpath(f"{name}.yaml")
    return _read(place.read_text(encoding="utf-8"), place.name, name)


def file_text(path: Path) -> str:
    """The text of a user's file; raises ConfigError."""
    try:
        data = file_bytes(path, MAX_FILE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"device '{path}': {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"device '{path}': not UTF-8") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"device '{path}': more than {MAX_FILE_BYTES:,} bytes")
    return text


def _read(text: str, file: str, called: str) -> Device:
    problems: list[Diagnostic] = []
    given = read_layer(text, file, problems)
    wanted = {field.name: field.type for field in fields(Device) if field.name not in _WORDS}
    for key, item in given.items():
        if key not in wanted and key not in _WORDS:
            problems.append(item.problem("C101", f"a device has no '{key}'", did_you_mean(key, wanted)))
        elif key in wanted:
            problems += _wrong(key, item, whole=wanted[key] == "int")
    name, like = (_text(given, key, problems) for key in ("name", "like"))
    if like is not None and like.lower() not in device_names():
        hint = did_you_mean(like, device_names()) or f"known: {', '.join(device_names())}"
        problems.append(given["like"].problem("C103", f"no device is called '{like}'", hint))
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: (problem.mark or Mark(file, 1)).line))
    is_whole = all(key in given for key in wanted)
    base = None if is_whole else _preset((like or DEVICE).lower())
    values = {key: given[key].value if key in given else getattr(base, key) for key in wanted}
    return Device(name=name or called, **values)


def _wrong(key: str, item: Given, *, whole: bool) -> list[Diagnostic]:
    """What is wrong with a number."""
    value, least = item.value, _LEAST.get(key, 1)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        expected = "an integer" if whole else "a number"
        return [item.problem("C102", f"'{key}' is {describe(value)}, expected {expected}")]
    if not least <= value <= MOST_US:
        return [item.problem("C103", f"'{key}' is {value}, expected {least} to {MOST_US:g}")]
    return []


def _text(given: Mapping[str, Given], key: str, problems: list[Diagnostic]) -> str | None:
    item: Any = given.get(key)
    if item is not None and not isinstance(item.value, str):
        problems.append(item.problem("C102", f"'{key}' is {describe(item.value)}, expected a name"))
        return None
    return None if item is None else item.value
