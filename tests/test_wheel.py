"""What pip installs: the wheel holds every file that the code needs, and works alone and with a package of somebody else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from zipfile import ZipFile

import pytest
from installed_family import OFFLINE, copied_example
from places import ROOT

PACKAGES = ("runner", "ops", "schedulers", "graphs")
SUFFIXES = (".py", ".yaml", ".json", ".js", ".css", ".html", ".txt")
CACHES = shutil.ignore_patterns("__pycache__")


def ran(*command, cwd, env=None):
    """What a command printed; a failure shows all of it."""
    made = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert made.returncode == 0, f"{command}\n{made.stdout}\n{made.stderr}"
    return made.stdout


def built(source, folder):
    """The wheel of a source folder, made without the network."""
    ran(sys.executable, "-m", "pip", "wheel", *OFFLINE, "-w", folder, source, cwd=folder.parent)
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: builds leave files beside the sources."""
    folder = tmp_path_factory.mktemp("ringgraph")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / "source" / package, ignore=CACHES)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    return built(folder / "source", folder / "wheel")


def test_the_wheel_holds_every_module_and_every_file_that_they_read(wheel):
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in SUFFIXES
    }
    assert {Path(name).suffix for name in wanted} == set(SUFFIXES)
    held = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == wanted


@pytest.mark.slow
def test_an_empty_environment_runs_ours_and_a_package_of_somebody_else(wheel, tmp_path, capsys):
    start = perf_counter()
    other = built(copied_example(tmp_path / "source"), tmp_path / "wheel")
    ran(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python, ringgraph = (tmp_path / "venv" / "bin" / name for name in ("python", "ringgraph"))
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    for wanted in (["torch==2.13.0"], [wheel], [other]):  # torch first, so that no other package pulls in a CUDA build
        ran(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted, cwd=tmp_path, env=env)
    installed_s = perf_counter() - start
    empty = tmp_path / "empty"
    empty.mkdir()

    def run(*command):
        return ran(ringgraph, *command, cwd=empty, env=env)

    where = ran(python, "-c", "import runner, ringgraph_gru; print(runner.__file__, ringgraph_gru.__file__)", cwd=empty, env=env)
    assert where.count(str(tmp_path / "venv")) == 2, "the checkout is not looked at"

    ask = ["--prompt-ids", "1,2,3", "--prompt-ids", "9", "--max-new-tokens", "8", "--json"]
    run("checkpoint", "init", "--config", "tiny", "tiny")
    tokens = json.loads(run("generate", "--checkpoint", "tiny", *ask))["tokens"]
    ours = ran(sys.executable, "-m", "runner.cli.main", "generate", "--checkpoint", empty / "tiny", *ask, cwd=ROOT)
    assert tokens == json.loads(ours)["tokens"], "as the checkout makes them"

    assert run("ops", "show", "gru_cell").startswith("gru_cell (MIX)\n")
    assert "decode_fwd, scheduler per_layer" in run("schedule", "decode_fwd", "--scheduler", "per_layer")
    assert "gru_prefill, scheduler per_layer" in run("schedule", "gru_prefill", "--config", "gru", "--scheduler", "per_layer")
    run("checkpoint", "init", "--config", "gru", "gru")
    assert "fits        gru" in run("checkpoint", "inspect", "gru")
    per_layer = json.loads(run("generate", "--checkpoint", "gru", *ask, "--scheduler", "per_layer"))
    assert [len(made) for made in per_layer["tokens"]] == [8, 8]
    assert per_layer["tokens"] == json.loads(run("generate", "--checkpoint", "gru", *ask))["tokens"]
    with capsys.disabled():
        print(f"\nwheel: installed in {installed_s:.0f} s, ran in {perf_counter() - start - installed_s:.0f} s")
        print(run("generate", "--checkpoint", "gru", *ask[:-1], "--scheduler", "per_layer"))
