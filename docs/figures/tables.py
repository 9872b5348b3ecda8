"""Tables on pages, made of data: `data/NAME.json` holds what a part of `make figures` worked out, and this renders it.

A page holds a table between `<!-- figures: NAME -->` and `<!-- end -->`; `render_pages` writes what stands between them anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data"
PAGES = tuple(Path(__file__).parents[1] / name for name in ("minpeak.md", "memory-model.md"))
BLOCK = re.compile(r"(?<=^<!-- figures: )(\w+)( -->\n)(.*?)(?=^<!-- end -->$)", re.MULTILINE | re.DOTALL)

POINTS = ("balanced", "strategy", "fastest", "least")
"""Placements that the table of balanced points shows."""

SLACK = 0.05
"""What balanced points may be slower than the fastest."""

Rows = Iterable[Sequence[str]]


def save(name: str, data: Any) -> None:
    """Keep what a part found; numbers as written here are what pages show, rounded."""
    (FOLDER / f"{name}.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def render_pages(pages: Iterable[Path] = PAGES) -> list[Path]:
    """Write the tables of the pages anew; those pages that changed."""
    changed = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        if (new := rendered(text)) != text:
            page.write_text(new, encoding="utf-8")
            changed.append(page)
    return changed


def rendered(text: str) -> str:
    """A page's text with all its tables as the data say."""
    return BLOCK.sub(lambda block: f"{block[1]}{block[2]}{render(block[1])}", text)


def render(name: str) -> str:
    """The table of that name, in Markdown."""
    source, table = TABLES[name]
    columns, rows = table(load(source))
    lines = [f"| {' | '.join(line)} |" for line in (columns, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:], ""])


# --- the tables -------------------------------------------------------------------------------------------------------


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _targets(data: list[dict[str, Any]]) -> tuple[list[str], Rows]:
    columns = ["program, prefill unless said", "at most", "found", "lower bound", "met", "`annotated`"]
    rows = []
    for row in data:
        most = row["most_mib"]
        met = "" if most is None else "yes" if row["minpeak_mib"] <= most else "no"
        sizes = [_number(row[name]) for name in ("minpeak_mib", "lower_bound_mib")]
        rows.append([row["program"], _number(most, 0), *sizes, met, _number(row["annotated_mib"])])
    return columns, rows


def _strategies(data: list[dict[str, Any]]) -> tuple[list[str], Rows]:
    """Strategies with the same figures share a row."""
    columns = ["program, tasks, lower bound", "scheduler", "total", "timed %", "lagging %", "makespan ms"]
    rows = []
    for case in data:
        labels: dict[tuple[str, ...], list[str]] = {}
        for row in case["rows"]:
            percents = [_number(row[name]) or "deadlock" for name in ("timed_percent", "lagging_percent")]
            figures = (_number(row["total_mib"]), *percents, _number(row["makespan_ms"], 2) or "-")
            name, comma, more = row["strategy"].partition(",")
            labels.setdefault(figures, []).append(f"`{name}`{comma}{more}")
        head = f"{case['program']}; {case['num_tasks']:,}; {_number(case['lower_bound_mib'], 2)}"
        for figures, names in labels.items():
            rows.append([head, "; ".join(names), *figures])
            head = ""
    return columns, rows


def _ratios(data: list[dict[str, Any]]) -> tuple[list[str], Rows]:
    """What the fewest bytes cost in time, and what no sharing costs in bytes, by kind of program."""
    columns = ["programs", "`annotated` takes, of the bytes of `minpeak`", "`minpeak` runs, of the time of `annotated`"]
    columns.append("`annotated` takes, of the bytes of `minpeak` without sharing")
    kinds: dict[str, list[dict[str, Any]]] = {}
    for case in data:
        kind = case["program"].partition(",")[0] + (", chunked" if case["program"].endswith(", chunked") else "")
        kinds.setdefault(kind, []).append({row["strategy"]: row for row in case["rows"]})
    pairs = (
        ("annotated", "minpeak", "total_mib"),
        ("minpeak", "annotated", "makespan_ms"),
        ("annotated", "minpeak, no sharing", "total_mib"),
    )
    rows = [[kind, *(_range(cases, *pair) for pair in pairs)] for kind, cases in sorted(kinds.items())]
    return columns, rows


def _range(cases: list[dict[str, Any]], above: str, below: str, figure: str) -> str:
    found = [case[above][figure] / case[below][figure] for case in cases]
    low, high = f"{min(found):.1f}", f"{max(found):.1f}"
    return low if low == high else f"{low} to {high}"


def _frontier(data: dict[str, Any]) -> tuple[list[str], Rows]:
    points = [(point["label"], point["total_bytes"], point["makespan_us"]) for point in (*data["points"], *data["others"])]
    points.append(("lower bounds: peak live, critical path", data["peak_live_bytes"], data["critical_path_us"]))
    rows = [[label, _number(size / 2**20), _number(time_us / 1000, 2)] for label, size, time_us in points]
    return ["placement", "all rings, MiB", "makespan, ms"], rows


def _balanced(data: list[dict[str, Any]]) -> tuple[list[str], Rows]:
    """MiB, and milliseconds beside them."""
    columns = [
        "program, `random:0`",
        "at most",
        "balanced",
        "over the fastest",
        "met",
        "fastest strategy",
        "fastest of all",
        "fewest bytes",
    ]
    rows = []
    for row in data:
        over = row["balanced_ms"] / row["fastest_ms"] - 1
        met = "yes" if row["balanced_mib"] <= row["most_mib"] and over <= SLACK else "no"
        cells = {name: f"{_number(row[f'{name}_mib'], 2)}, {_number(row[f'{name}_ms'], 2)} ms" for name in POINTS}
        head = [f"{row['program']}; {row['timing']}", _number(row["most_mib"]), cells["balanced"], f"{over:+.1%}", met]
        rows.append([*head, cells["strategy"], cells["fastest"], cells["least"]])
    return columns, rows


def _seed(data: list[dict[str, Any]]) -> tuple[list[str], Rows]:
    columns = ["variant", "strategy", "from", "worst ring", "scope_high_water", "least, MiB"]
    rows = []
    for variant in data:
        rows.append([variant["variant"], f"`{variant['strategy']}`", "seed's report", "", f"{variant['reported_percent']} %", ""])
        for source, found in (("its program, traced", variant["traced"]), ("our graphs", variant["ours"])):
            if found is not None:
                least = " + ".join(_number(size, 2) for size in found["least_mib"])
                rows.append(["", "", source, f"{found['ring']}", f"{_number(found['percent'], 2)} %", least])
    return columns, rows


TABLES: dict[str, tuple[str, Callable[[Any], tuple[list[str], Rows]]]] = {
    "targets": ("targets", _targets),
    "strategies": ("strategies", _strategies),
    "ratios": ("strategies", _ratios),
    "frontier": ("frontier", _frontier),
    "balanced": ("balanced", _balanced),
    "seed": ("seed", _seed),
}
"""Each table: the data that it is made of, and how."""
