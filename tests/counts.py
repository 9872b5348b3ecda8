"""Counts of the tree: the largest folders, the longest functions, lines of the planner. `python tests/counts.py` prints them."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("runner", "schedulers", "ops", "docs")


def modules(*packages: str) -> list[Path]:
    """Every module of the packages, `__init__` left out."""
    found = [path for package in packages or PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in found if path.name != "__init__.py"]


def folders() -> Counter[str]:
    """How many modules lie directly in each folder."""
    return Counter(str(path.parent.relative_to(ROOT)) for path in modules())


def functions() -> list[tuple[int, str]]:
    """Lines of every function and method, the longest first; decorators are not counted."""
    found = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                found.append((node.end_lineno - node.lineno + 1, f"{path.relative_to(ROOT)}:{node.name}"))
    return sorted(found, reverse=True)


def lines(package: str) -> int:
    """Lines of all files of a package, `__init__` included."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / package).rglob("*.py"))


def main() -> None:
    for folder, count in folders().most_common(5):
        print(f"{count:>6} modules in {folder}")
    longest = functions()
    for length, name in longest[:5]:
        print(f"{length:>6} lines: {name}")
    print(f"{sum(length > 40 for length, _ in longest):>6} functions over 40 lines")
    for package in PACKAGES:
        print(f"{lines(package):>6} lines in {package}")


if __name__ == "__main__":
    main()
