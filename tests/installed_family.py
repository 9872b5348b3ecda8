"""Families of models as installed packages bring them: entry points, and the modules in `tests/families`."""

import sys
from contextlib import contextmanager
from importlib import invalidate_caches

from places import ROOT

from runner.models import family

FAMILIES = ROOT / "tests" / "families"


@contextmanager
def installed(folder, **entries):
    """In here, a package with entry points of the group `ringgraph.models` lies in `folder`, and that is on the path."""
    info = folder / "ringgraph_toy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ringgraph-toy\nVersion: 1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
    (info / "entry_points.txt").write_text(f"[ringgraph.models]\n{lines}")
    path = [str(folder), str(FAMILIES)]
    sys.path[:0] = path
    invalidate_caches()
    family.cache_clear()
    try:
        yield
    finally:
        sys.path[:] = [place for place in sys.path if place not in path]
        sys.modules.pop("toy_model", None)
        invalidate_caches()
        family.cache_clear()
