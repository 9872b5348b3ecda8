"""What a shell offers for an argument or option of the command line, given what stands there so far (`incomplete`).

Each function returns words that begin with that; none raises, since a shell has nobody to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

Complete = Callable[[str], list[str]]


def one_of(*words: str) -> Complete:
    """Completes fixed words."""
    return lambda incomplete: _matching(incomplete, words)


def files(*suffixes: str) -> Complete:
    """Completes files of some suffixes, and folders that they may be in."""
    return lambda incomplete: _matching(incomplete, _paths(incomplete, suffixes))


def graphs(incomplete: str) -> list[str]:
    """Names of shipped graphs, and files and folders that graphs may be in."""
    from runner.language.library import shipped_graphs

    return _matching(incomplete, (*_tried(shipped_graphs), *_paths(incomplete, (".yaml", ".yml"))))


def graphs_or_codes(incomplete: str) -> list[str]:
    """The same, and lint codes."""
    from runner.lint.codes import RULES

    return [*_matching(incomplete, RULES), *graphs(incomplete)]


def configs(incomplete: str) -> list[str]:
    """Names of presets and families, and files and folders that layers may be in."""
    from runner.config.sources import presets
    from runner.models import family_names

    return _matching(incomplete, (*_tried(presets), *_tried(family_names), *_paths(incomplete, (".yaml", ".yml", ".json"))))


def deployments(incomplete: str) -> list[str]:
    """Names of deployments that the families' base layers have."""
    from runner.config.sources import read_source
    from runner.models import family, family_names

    def known() -> Iterator[str]:
        for name in family_names():
            given = read_source(family(name).base_layer)[0].given.get("deployments")
            yield from given.value if given is not None and isinstance(given.value, dict) else ()

    return _matching(incomplete, _tried(known))


def schedulers(incomplete: str) -> list[str]:
    """Names of strategies."""
    from schedulers import scheduler_names

    return _matching(incomplete, _tried(scheduler_names))


def techniques(incomplete: str) -> list[str]:
    """Names of minpeak's techniques."""
    from schedulers.minpeak.techniques import TECHNIQUES

    return _matching(incomplete, (technique.name for technique in TECHNIQUES))


def ops(incomplete: str) -> list[str]:
    """Names of ops."""
    from runner.driver.driver import registry

    return _matching(incomplete, _tried(registry))


def _matching(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in dict.fromkeys(words) if word.startswith(incomplete)]


def _tried(words: Callable[[], Iterable[str]]) -> list[str]:
    """What there is, or nothing where a package or file cannot be loaded."""
    try:
        return list(words())
    except Exception:  # whatever an installed package does
        return []


def _paths(incomplete: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Files of some suffixes, and folders, which end in a slash."""
    before = incomplete[: incomplete.rfind("/") + 1]
    try:
        entries = sorted(Path(before or ".").iterdir())
    except (OSError, ValueError):
        return
    for entry in entries:
        if entry.name.startswith(".") and not incomplete[len(before) :].startswith("."):
            continue
        if entry.is_dir():
            yield f"{before}{entry.name}/"
        elif entry.name.endswith(suffixes):
            yield f"{before}{entry.name}"
