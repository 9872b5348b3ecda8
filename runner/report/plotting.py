"""This module is the way to matplotlib: what it can write, how files repeat from run to run, and how they are saved whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.base.errors import RinggraphError
from runner.base.files import check_writable, whole_file

FORMATS = (".svg", ".png", ".pdf")


def check_format(out: Path) -> None:
    """Raises RinggraphError unless `out` can be drawn: matplotlib (the `plot` extra) is there, and the suffix is known."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise RinggraphError("drawing needs matplotlib", hint="pip install 'ringgraph[plot]'") from error
    if out.suffix not in FORMATS:
        raise RinggraphError(f"cannot draw '{out}': the suffix is '{out.suffix}', expected .svg, .png or .pdf")


def check_picture(out: Path) -> None:
    """Raises before anything is worked out what would keep a picture from being written: RinggraphError, OSError."""
    check_format(out)
    check_writable(out)


def pyplot(out: Path) -> Any:
    """`matplotlib.pyplot`, drawing to files with ids that repeat from run to run; raises RinggraphError as `check_format`."""
    check_format(out)
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "ringgraph"
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, out: Path, **options: Any) -> None:
    """Write a figure whole or not at all, and forget it."""
    from matplotlib import pyplot

    try:
        with whole_file(out) as partial:
            figure.savefig(partial, metadata={"Date": None} if out.suffix == ".svg" else None, dpi=150, **options)
    finally:
        pyplot.close(figure)
