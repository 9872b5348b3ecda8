"""Pictures of odd graphs and of recorded programs: they come out, or say in one line why not."""

import re
import shutil

import pytest
from odd_graphs import GRAPHS
from places import DATA

from docs.figures.pictures import shape
from runner.cli.main import main
from runner.report.dot.nodes import LEVELS

pytestmark = pytest.mark.usefixtures("short_searches")
NO_BYTES = ("empty", "one", "nothing_in_it")


@pytest.fixture
def told(tmp_path, monkeypatch, capsys):
    """Runs a command in a folder with the odd graphs; its status and what it told."""
    monkeypatch.chdir(tmp_path)
    for name, text in GRAPHS.items():
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return ended.value.code or 0, printed.out, printed.err

    return run


@pytest.mark.parametrize("name", GRAPHS)
def test_odd_graphs_are_drawn(name, told, tmp_path):
    for level in LEVELS:
        code, out, err = told("dot", f"{name}.yaml", "--level", level)
        assert code == 0 and out.startswith("digraph") and out.endswith("}\n") and not err
        if shutil.which("dot") is not None and name != "chain":
            assert name in ("empty", "alloc") or shape(out).ratio <= 4
    code, out, err = told("rings", f"{name}.yaml", "-o", "rings.svg")
    if name in NO_BYTES:
        assert (code, err) == (1, f"error: schedule '{name}' places no bytes: there is nothing to draw\n")
        assert not (tmp_path / "rings.svg").exists()
    else:
        assert code == 0, err
        assert re.match(r"<\?xml.*<svg", (tmp_path / "rings.svg").read_text(encoding="utf-8"), re.DOTALL)
    code, out, err = told("view", f"{name}.yaml", "-o", "page.html")
    assert code == 0 and out.startswith("page.html: "), err


@pytest.mark.parametrize("name", ["empty", "one", "long", "chain"])
def test_odd_graphs_are_shown_beside_their_smallest_plan(name, told):
    code, out, err = told("view", f"{name}.yaml", f"{name}.yaml:minpeak", "-o", "page.html")
    assert code == 0 and out.startswith("page.html: "), err


@pytest.mark.parametrize("capture", ["captures/03", "captures/layers_1", "conformance/09_wrap_tail_gap_deadlock.json"])
def test_recorded_programs_are_drawn_or_their_deadlock_is_told(capture, told, tmp_path):
    for level in LEVELS:
        code, out, _ = told("dot", DATA / capture, "--level", level)
        assert code == 0 and out.startswith("digraph")
    code, _, err = told("rings", DATA / capture, "-o", "rings.png")
    if "deadlock" in capture:
        assert code == 1 and err.startswith("error: HEAP_RING_DEADLOCK")
    else:
        assert code == 0 and (tmp_path / "rings.png").stat().st_size > 5_000, err
    code, out, err = told("view", DATA / capture, "-o", "page.html")
    assert code == 0 and out.startswith("page.html: "), err
