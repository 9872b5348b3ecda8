"""This module writes a page: one file with its style, its script and its data, which opens without a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from runner.base.files import write_text

SCRIPTS = ("data.js", "frame.js", "rings.js", "timeline.js", "graph.js", "tables.js", "start.js")
"""The parts of the page's script, in the order in which they run."""


def page_html(sides: Sequence[dict[str, Any]], differences: dict[str, Any] | None = None) -> str:
    """The page of one plan, or of two with what differs (`runner.report.diff.diff_json`)."""
    assets = files("runner.report.page") / "assets"
    title = " and ".join(f"{side['name']}, {side['strategy']}" for side in sides)
    data = json.dumps({"sides": list(sides), "differences": differences}, separators=(",", ":"), default=str)
    parts = {
        "TITLE": escape(title),
        "STYLE": (assets / "page.css").read_text("utf-8"),
        "DATA": data.replace("<", "\\u003c"),  # no text of a file can end the script that holds it
        "SCRIPT": "\n".join((assets / name).read_text("utf-8") for name in SCRIPTS),
    }
    page = (assets / "page.html").read_text("utf-8")
    head, *rest = page.split("@@")
    return head + "".join(parts[text] if i % 2 == 0 else text for i, text in enumerate(rest))


def write_page(out: Path, sides: Sequence[dict[str, Any]], differences: dict[str, Any] | None = None) -> int:
    """Write the page whole or not at all; returns its size in bytes."""
    text = page_html(sides, differences)
    write_text(out, text)
    return len(text.encode("utf-8"))
