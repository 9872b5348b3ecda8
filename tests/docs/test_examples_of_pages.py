"""Examples of pages without a test of their own: each command prints what the page shows; `...` stands for what it leaves out."""

import re
import shlex

import pytest
from places import DOCS, ROOT
from sampled import sampled

from runner.cli.main import main

PAGES = ("device-files", "placement", "recorded")
EXAMPLES = [
    (command, expected)
    for name in PAGES
    for block in re.findall(r"^```(?:console|text)\n\$ ringgraph (.*?)^```", (DOCS / f"{name}.md").read_text(), re.M | re.S)
    for command, _, expected in [block.partition("\n")]
]
QUICK = ("scope-stats show", "recorded show")


@pytest.mark.parametrize(("command", "expected"), sampled(EXAMPLES, lambda one: one[0].startswith(QUICK)))
def test_it_prints_what_the_page_shows(command, expected, tmp_path, monkeypatch, capsys):
    for name in ("graphs", "docs", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(command))
    assert not ended.value.code
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    pattern = re.escape(expected.rstrip()).replace(r"\.\.\.", ".*")
    assert re.fullmatch(pattern, printed, re.DOTALL), printed


def test_there_are_examples():
    assert len(EXAMPLES) >= 4
