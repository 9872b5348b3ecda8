"""This module tells a folder with a capture by its files. Every command asks it of its argument, so it knows nothing else."""

from __future__ import annotations

from pathlib import Path

DEPS, STATS, SWIMLANE = "deps.json", "scope_stats.jsonl", "chip_swimlane_records.json"


def is_capture(path: Path) -> bool:
    """Whether a path is a folder with a file of a capture in it."""
    return path.is_dir() and any((path / name).is_file() for name in (DEPS, STATS, SWIMLANE))
