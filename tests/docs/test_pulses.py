"""docs/no-model.md and its pipeline: the page's commands as they stand, and other recordings and fields against numpy."""

import re
import shlex

import numpy as np
import pytest
import typer
from places import DOCS, ROOT
from safetensors.numpy import load_file, save_file

from docs.examples.pulses.record import MOST, pulses_in, recording
from runner.cli.main import app
from runner.config.config import load_config

pytestmark = pytest.mark.usefixtures("short_searches")

FOLDER = DOCS / "examples" / "pulses"
PAGE = (DOCS / "no-model.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ ringgraph ((?:schedule|run) .*)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_do_it_all(command, call, monkeypatch):
    monkeypatch.chdir(ROOT)
    status, out, err = call(*shlex.split(command))
    assert status == 0, err
    wanted = "certificate: balanced" if command.startswith("schedule") else PAGE.partition("```text\n")[2].partition("\n```")[0]
    assert wanted in "\n".join(line.rstrip() for line in out.splitlines())


def test_the_page_names_every_command_that_takes_ops_of_a_file():
    listed = re.findall(r"`([^`]+)`", PAGE.partition("command that reads a graph: ")[2].partition(". A layer")[0])

    def taking(command, name=""):
        if hasattr(command, "commands"):
            return [found for word, one in command.commands.items() for found in taking(one, f"{name} {word}".strip())]
        return [name] * any("--ops" in parameter.opts for parameter in command.params)

    assert sorted(listed) == sorted(taking(typer.main.get_command(app)))


def test_two_commands_are_all_that_the_page_asks_for():
    assert [command.split()[0] for command in COMMANDS] == ["schedule", "run"]


def test_the_files_name_no_field_of_a_model():
    own = {*load_config([FOLDER / "layer.yaml"]).values} - {"deploy"}
    for model in ("tiny", "flash", "qwen3-tiny"):
        assert not own & {*load_config([model]).values}


def test_what_was_recorded_is_what_the_script_makes():
    assert np.array_equal(load_file(FOLDER / "recording.safetensors")["signal"], recording())


FIELDS = [
    {},
    {"width": 128, "factor": 30.0},
    {"width": 250, "hop": 100, "finer": 8, "window": "none", "factor": 60.0},
    {"taps": [0.25, 0.5, -0.75], "most": 2},
    {"factor": 1e9},
]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
@pytest.mark.parametrize("workers", [1, 4])
def test_other_recordings_and_fields_against_numpy(fields, workers, call, tmp_path):
    sound = recording(samples=9000, seed=len(str(fields)))
    save_file({"signal": sound}, tmp_path / "sound.safetensors")
    sets = [part for name, value in {"samples": 9000, **fields}.items() for part in ("--set", f"{name}={value}")]
    ops = ("--config", FOLDER / "layer.yaml", "--ops", FOLDER / "pulses_ops.py", *sets)
    rings = ("--scheduler", "minpeak", "--ring-heap", "safe", "--workers", workers)
    files = ("--inputs", tmp_path / "sound.safetensors", "--out", tmp_path / "made.safetensors")
    status, _, err = call("run", FOLDER / "pulses.yaml", *ops, *rings, *files)
    assert status == 0, err
    made = load_file(tmp_path / "made.safetensors")
    known = {name: value for name, value in fields.items() if name != "window"}
    expected = pulses_in(sound, **{"hop": fields.get("width", 256) // 2, "is_hann": "window" not in fields, **known})
    assert made["count"][0] == len(expected) and (len(expected) >= 2) == (fields.get("factor") != 1e9)
    assert made["pulses"].shape == (fields.get("most", MOST), 3) and not made["pulses"][len(expected) :].any()
    assert np.allclose(made["pulses"][: len(expected)], expected, rtol=2e-5, atol=1e-4)
