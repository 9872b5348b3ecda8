"""What shells are offered: values that the commands take, from the same lists that they check."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer.main
from places import ROOT

from runner.cli.main import app
from runner.config.sources import presets
from runner.language.library import shipped_graphs
from runner.lint.codes import RULES
from runner.lint.output import FORMATS
from schedulers import scheduler_names


def offered(command: str, name: str, typed: str = "") -> list[str]:
    """What the parameter of a command offers."""
    found = typer.main.get_command(app)
    for part in command.split():
        found = found.commands[part]  # type: ignore[attr-defined]
    context = found.make_context(command, [], resilient_parsing=True)
    (parameter,) = [p for p in found.params if name in (p.name, *p.opts)]
    return [item.value for item in parameter.shell_complete(context, typed)]


@pytest.mark.parametrize("command", ["schedule", "size", "run", "generate", "dot"])
def test_schedulers(command):
    assert offered(command, "--scheduler") == scheduler_names()
    assert offered(command, "--scheduler", "au") == ["auto", "autoscope"]


@pytest.mark.parametrize(
    ("command", "name"),
    [("lint", "paths"), ("schedule", "graph"), ("size", "graphs"), ("run", "graph"), ("dot", "graph"), ("explain", "graph")],
)
def test_graphs(command, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("deco").mkdir()
    for file in ("decoy.yaml", "decoy.txt", "deco/own.yaml", "deco/own.yml", ".hidden.yaml"):
        Path(file).touch()
    assert offered(command, name, "dec") == ["decode_fwd", "decode_fwd_mtp", "decode_mtp", "deco/", "decoy.yaml"]
    assert offered(command, name, "deco/") == ["deco/own.yaml", "deco/own.yml"]
    assert offered(command, name, f"{tmp_path}/deco/own.ya") == [f"{tmp_path}/deco/own.yaml"]
    assert set(offered(command, name)) >= {*shipped_graphs()}
    assert offered(command, name, "nowhere/") == []


def test_codes_and_formats():
    assert offered("explain", "graph", "G") == list(RULES)
    assert offered("lint", "--format") == list(FORMATS)


@pytest.mark.parametrize("command", ["lint", "schedule", "config show", "checkpoint init"])
def test_configs(command, monkeypatch):
    monkeypatch.chdir(ROOT / "graphs" / "schema")
    assert set(offered(command, "--config")) >= {*presets(), "deepseek_v4", "graph.schema.json"}
    assert offered(command, "--config", "ti") == ["tiny"]


@pytest.mark.parametrize("command", ["lint", "schedule", "generate"])
def test_deployments(command):
    assert offered(command, "--deploy", "dec") == ["decode", "decode-mtp"]
    assert "prefill" in offered(command, "--deploy")


@pytest.mark.parametrize(
    ("command", "option", "bad"),
    [
        ("dot decode_fwd", "--level", "nothing"),
        ("schedule decode_fwd --scheduler minpeak", "--objective", "nothing"),
        ("schedule decode_fwd", "--progress", "nothing"),
        ("checkpoint init --config tiny OUT", "--flavour", "nothing"),
    ],
)
def test_what_is_offered_is_what_the_refusal_of_another_value_lists(command, option, bad, call, tmp_path):
    status, printed, said = call(*command.replace("OUT", str(tmp_path / "out")).split(), option, bad)
    assert status != 0
    name = "checkpoint init" if command.startswith("checkpoint") else command.split()[0]
    for value in offered(name, option):
        assert value in printed + said
