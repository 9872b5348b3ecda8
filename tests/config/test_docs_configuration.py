"""The pages on configuration and checkpoints: their examples run and print what they say, their tables are complete."""

import re
import shlex

import pytest
from places import ROOT

from runner.cli.main import main
from runner.config.config import load_config
from runner.config.sources import presets
from runner.models.deepseek_v4 import FAMILY

DOCS = ROOT / "docs"
PAGES = ("configuration", "checkpoints")


def page(name):
    return (DOCS / f"{name}.md").read_text()


def blocks(name, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page(name), re.MULTILINE | re.DOTALL)


def codes(pattern):
    text = "".join(path.read_text() for path in (ROOT / "runner").rglob("*.py"))
    return set(re.findall(rf'"({pattern}\d\d)"', text))


@pytest.mark.parametrize("name", PAGES)
def test_examples_print_what_they_say(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for file, text in re.findall(r"\(`(\w+\.yaml)`\):\n\n```yaml\n(.*?)^```", page(name), re.MULTILINE | re.DOTALL):
        (tmp_path / file).write_text(text)
    examples = [example.partition("\n") for block in blocks(name, "console") for example in block.split("$ ringgraph ")[1:]]
    assert len(examples) > 1
    for command, _, expected in examples:
        with pytest.raises(SystemExit):
            main(shlex.split(command))
        printed = capsys.readouterr()
        lines = [line.rstrip() for line in (printed.out + printed.err).splitlines()]
        assert lines == expected.splitlines(), command


def test_layers_in_the_text_load(tmp_path):
    text, own = blocks("configuration", "yaml")
    (tmp_path / "mine.yaml").write_text(text)
    config = load_config(["tiny", tmp_path / "mine.yaml"])
    assert (config["hidden_size"], config["moe_intermediate_size"], config["T"], config["HALF"]) == (128, 64, 16, 64)
    assert config.with_(deploy="wide")["T"] == 64
    (tmp_path / "own.yaml").write_text(own)
    config = load_config([tmp_path / "own.yaml"])
    assert config.family.name == "none" and config["gains"] == [1, 0.5, 1 / 3, 0.25] and config["BAND"] == 1024


def test_every_field_and_preset_is_in_the_text():
    text = page("configuration")
    fields = {name for name, rule in FAMILY.fields().items() if not rule.get("x-alias")}
    listed = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", text.split("## Fields\n")[1].split("## Hugging")[0], re.MULTILINE)
    assert set(listed) == fields and len(listed) == len(fields)
    assert all(
        f"`{name}`" in text for name in (*presets(), *(name for name, rule in FAMILY.fields().items() if rule.get("x-alias")))
    )


def test_every_code_is_in_the_text():
    configuration = codes("C1")
    assert configuration == set(re.findall(r"^\| `(C1\d\d)` \|", page("configuration"), re.MULTILINE))
    checkpoint = codes("K1")
    assert checkpoint == set(re.findall(r"^\| `(K1\d\d)` \|", page("checkpoints"), re.MULTILINE))
