"""Rows of README: each command runs as it is written, in seconds, and ends with the status that the page says."""

import re
import shlex
import time

import pytest
from places import ROOT

from runner.cli.main import main

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+\?) \| (.+) \| (\d)[^|]* \|$", TEXT, re.MULTILINE)
SECONDS = 20
"""Processor time of a command, imports included; CI's machines are half as fast as ours."""


def test_every_row_says_how_it_ends():
    table = TEXT[TEXT.index("## What you can ask") :]
    assert len(ROWS) == table.count("\n| ") - 1 >= 15  # but for the head


def _run(folder, rows, monkeypatch, capsys):
    """Runs the commands of rows in turn, in a folder that has what the checkout has."""
    for name in ("graphs", "docs", "tests"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    for question, commands, status in rows:
        for command in re.findall(r"`ringgraph ([^`]+)`", commands):
            before = time.process_time()
            with pytest.raises(SystemExit) as ended:
                main(shlex.split(command))
            printed = capsys.readouterr()
            assert (ended.value.code or 0) == int(status), f"{question}: {command}\n{printed.out}{printed.err}"
            assert "Traceback" not in printed.err
            assert time.process_time() - before < SECONDS, command


def test_rows_for_small_models_run_as_written(tmp_path, monkeypatch, capsys):
    _run(tmp_path, [row for row in ROWS if "--config flash" not in row[1]], monkeypatch, capsys)


@pytest.mark.slow
def test_rows_for_large_models_run_as_written(tmp_path, monkeypatch, capsys):
    _run(tmp_path, [row for row in ROWS if "--config flash" in row[1]], monkeypatch, capsys)
