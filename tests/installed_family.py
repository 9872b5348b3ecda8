"""Families of models as installed packages bring them: modules of `tests/families` by entry points, and the worked example."""

import shutil
import subprocess
import sys
from contextlib import contextmanager
from importlib import invalidate_caches

from places import DOCS, ROOT

from runner.driver.driver import registry
from runner.models import family

FAMILIES = ROOT / "tests" / "families"
EXAMPLE = DOCS / "examples" / "gru_family"
OFFLINE = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q")


@contextmanager
def installed(folder, **entries):
    """In here, a package with entry points of the group `ringgraph.models` lies in `folder`, and that is on the path."""
    info = folder / "ringgraph_toy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ringgraph-toy\nVersion: 1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
    (info / "entry_points.txt").write_text(f"[ringgraph.models]\n{lines}")
    with on_path(folder, FAMILIES):
        yield


@contextmanager
def on_path(*folders):
    """In here, what lies in the folders can be imported and is found by its entry points; no module of theirs stays."""
    path, before = [str(folder) for folder in folders], set(sys.modules)
    sys.path[:0] = path
    _forget()
    try:
        yield
    finally:
        sys.path[:] = [place for place in sys.path if place not in path]
        for name in [name for name in set(sys.modules) - before if _lies_in(path, sys.modules[name])]:
            del sys.modules[name]
        _forget()


def _lies_in(path, module):
    """Whether a module's file, or the folder of one that has none, lies in one of the folders."""
    files = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
    return any(str(file).startswith(tuple(path)) for file in files)


def _forget():
    invalidate_caches()
    family.cache_clear()
    registry.cache_clear()


def copied_example(folder):
    """The worked example's source in a folder of its own, where a build may leave what it likes."""
    return shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))


def install_example(folder):
    """The worked example, installed by pip into `folder / "site"`; returns that."""
    source, site = copied_example(folder / "source"), folder / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *OFFLINE, "--target", str(site), str(source)], check=True, timeout=600
    )
    return site
