"""Every option that writes a file, on a full disk: the older file stays, the error names it, what was worked out is printed."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from full_disk import full_disk
from places import ROOT
from sampled import sampled
from warm import Warm

from runner.language.library import find_graph

OLD = b"the good older file\n"
LIMITED = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
"""The environment of processes whose files are limited: of a module's bytecode the beginning would be left (`full_disk`)."""
TINY = ("--config", "tiny")
SMALL = ("--set", "compress_ratios=[0,4]", "--set", "num_hidden_layers=2", "--set", "num_hash_layers=1")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from runner.checkpoint.random import init_checkpoint
    from runner.config.config import load_config

    config = load_config(["tiny"], SMALL[1::2])
    return init_checkpoint(config, tmp_path_factory.mktemp("outputs") / "tiny", seed=0)


@pytest.fixture
def inputs(model, tmp_path):
    """What commands read: a folder with prompts and routing."""
    (tmp_path / "prompts.json").write_text("[[1, 2, 3], [4]]")
    return {"MODEL": model, "PROMPTS": tmp_path / "prompts.json", "ROUTING": tmp_path / "routing"}


GENERATE = ("generate", "--checkpoint", "MODEL", "--prompts", "PROMPTS", "--max-new-tokens", "2", "--json")
RUN = ("run", "moe", *TINY)
OUTPUTS = {
    "schedule --scope-stats": (("schedule", "moe", *TINY, "--scope-stats", "FILE.jsonl"), "what it needs"),
    "schedule --json --scope-stats": (("schedule", "moe", *TINY, "--json", "--scope-stats", "FILE.jsonl"), '"num_tasks"'),
    "run --scope-stats": ((*RUN, "--ring-heap", "safe", "--scope-stats", "FILE.jsonl"), "most block bytes"),
    "run --profile": ((*RUN, "--profile", "FILE.json"), "most block bytes"),
    "run --out": ((*RUN, "--out", "FILE.safetensors"), "most block bytes"),
    "run --dump": ((*RUN, "--dump", "*", "--out", "FILE.safetensors"), "most block bytes"),
    "generate --logits": ((*GENERATE, "--logits", "FILE.safetensors"), '"tokens"'),
    "generate --record-routing": ((*GENERATE, "--record-routing", "FILE.jsonl"), '"tokens"'),
    "generate --scope-stats": ((*GENERATE, "--ring-heap", "safe", "--scope-stats", "FILE.jsonl"), '"tokens"'),
    "recv-depth --plot": (("recv-depth", "--routing", "ROUTING", *TINY, *SMALL, "--plot", "FILE.svg"), "rows"),
    "frontier --out": (("frontier", "o_proj_decode", *TINY, "--points", "1", "-o", "FILE.svg"), "bound"),
    "frontier --json --out": (("frontier", "o_proj_decode", *TINY, "--points", "1", "--json", "-o", "FILE.png"), '"points"'),
    "dot": (("dot", "moe", *TINY, "-o", "FILE.dot"), ""),
    "placement": (("placement", "moe", *TINY, "-o", "FILE.json"), ""),
    "placement --text": (("placement", "moe", *TINY, "-o", "FILE.txt", "--text"), ""),
    "dot --svg": (("dot", "moe", *TINY, "--svg", "-o", "FILE.svg"), ""),
}
WRITING = {
    "schedule": ("schedule", "moe", *TINY),
    "run": (*RUN, "--ring-heap", "safe"),
    "generate": (*GENERATE, "--ring-heap", "safe"),
}
RESULTS = {"schedule": "what it needs", "run": "most block bytes", "generate": '"tokens"'}
OUTPUTS |= {
    f"{command} {option}": ((*WRITING[command], option, "FILE.json"), RESULTS[command])
    for command in WRITING
    for option in ("--deps", "--swimlane", "--perfetto")
}


def told(capsys, arguments):
    """Exit status and streams of the command line, in this process."""
    from runner.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code or 0, *capsys.readouterr()


def quick(name):
    """All kinds of files, and of files that several commands write alike those of the quickest."""
    return name not in ("generate --deps", "generate --swimlane", "generate --perfetto", "frontier --json --out")


@pytest.mark.usefixtures("short_searches", "same_programs")
@pytest.mark.parametrize("name", sampled(OUTPUTS, quick))
def test_a_full_disk_at_each_output(name, inputs, tmp_path, capsys):
    arguments, result = OUTPUTS[name]
    if "--svg" in arguments and shutil.which("dot") is None:
        pytest.skip("Graphviz is not installed")
    if "ROUTING" in arguments:
        told(capsys, [inputs.get(a, a) for a in (*GENERATE, "--record-routing", "ROUTING")])
    file = tmp_path / "out" / next(a.replace("FILE", "file") for a in arguments if a.startswith("FILE"))
    file.parent.mkdir()
    asked = [file if a.startswith("FILE") else inputs.get(a, a) for a in arguments]
    assert told(capsys, asked)[0] == 0
    file.write_bytes(OLD)
    with full_disk():
        status, out, err = told(capsys, asked)
    assert status == 1 and str(file) in err.replace("\n", "") and "file too large" in err.lower(), err
    assert "Traceback" not in err and re.findall("^error", err, re.MULTILINE) == ["error"]
    assert result in out
    beside = [path for path in file.parent.iterdir() if not path.name.startswith("name_map_")]  # of the run before
    assert file.read_bytes() == OLD and beside == [file]


def test_every_option_that_writes_a_file_is_tried():
    """Options are read from the commands themselves: a new one fails here until it has a row."""
    import typer.main

    from runner.cli.main import app

    found = set()
    commands = dict(typer.main.get_command(app).commands)  # pyright: ignore[reportAttributeAccessIssue]
    for name, command in commands.items():
        for option in command.params:
            help_text = getattr(option, "help", "") or ""
            if re.match(r"Write|Draw (to|rows)|safetensors (to save|with prompt)", help_text) and option.opts[0].startswith("-"):
                found.add((name, option.opts[-1]))
    tried = {(arguments[0], a) for arguments, _ in OUTPUTS.values() for a in arguments if a.startswith("-")}
    aliases = {"-o": "--out"}
    tried |= {(name, aliases[a]) for name, a in tried if a in aliases}
    tried |= {(name, short) for name, a in tried for short, long in aliases.items() if long == a}
    assert found and found - tried == set()


def test_a_full_disk_while_scopes_are_written_into_a_graph(tmp_path, capsys):
    file = tmp_path / "g.yaml"
    text = find_graph("o_proj_decode").read_text()
    file.write_text(text)
    with full_disk(len(text) // 2):
        status, _, err = told(capsys, ["schedule", file, *TINY, "--scheduler", "autoscope", "--write"])
    assert status == 1 and str(file) in err.replace("\n", "") and "file too large" in err.lower(), err
    assert file.read_text() == text and list(tmp_path.iterdir()) == [file]
    assert told(capsys, ["schedule", file, *TINY, "--scheduler", "autoscope", "--write"])[0] == 0
    assert file.read_text() != text


@pytest.mark.parametrize("command", ["init", "convert"])
def test_a_full_disk_leaves_no_checkpoint(command, model, tmp_path, capsys):
    out = tmp_path / "new"
    given = ["init", out, *TINY, *SMALL] if command == "init" else ["convert", model, out, "--to", "w8a8"]
    with full_disk(4096):
        status, _, err = told(capsys, ["checkpoint", *given])
    assert status == 1 and str(out) in err.replace("\n", "") and "file too large" in err.lower(), err
    assert not out.exists()
    assert told(capsys, ["checkpoint", *given])[0] == 0
    assert told(capsys, ["checkpoint", "inspect", out])[0] == 0


def test_a_side_file_that_fails_on_ranks_does_not_swallow_the_tokens(inputs, tmp_path, capsys):
    file = tmp_path / "logits.safetensors"
    file.write_bytes(OLD)
    given = [str(inputs.get(a, a)) for a in GENERATE]
    status, alone, err = told(capsys, given)
    assert status == 0, err
    (tmp_path / "limited").mkdir()
    (tmp_path / "limited" / "sitecustomize.py").write_text(
        "import resource, sys\nsys.dont_write_bytecode = True\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    )
    limited = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path / "limited"), str(ROOT)))}
    ranks = Warm(["-m", "runner", *given, "--ep", 2, "--logits", file], limited, num_ranks=2)
    out, err = ranks.communicate(timeout=300)
    assert ranks.returncode == 1
    assert json.loads(out)["tokens"] == json.loads(alone)["tokens"]
    assert err.startswith(f"error: [rank 0] '{file}': "), err
    assert "file too large" in err.lower() and file.read_bytes() == OLD
    assert [path for path in tmp_path.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize("arguments", [("schedule", "moe", *TINY), ("config", "show", *TINY, "--json"), ("--version",)])
def test_results_that_standard_output_does_not_take_are_an_error(arguments):
    command = [sys.executable, "-m", "runner", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=300)
    assert (done.returncode, done.stderr) == (1, "error: standard output: no space left on device\n")


def test_results_that_the_disk_has_no_room_for_are_an_error(tmp_path):
    """A file as standard output takes what fits, and tells of the rest only when it is flushed."""
    command = f"ulimit -f 1; exec {sys.executable} -m runner config show --config tiny --json > {tmp_path / 'file'}"
    done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, cwd=ROOT, env=LIMITED, timeout=300)
    assert (done.returncode, done.stderr) == (1, "error: standard output: file too large\n")


CLOSED = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-", "all": "<&- >&- 2>&-"}


def _statuses(closed, *commands):
    """How commands end that are started with closed streams."""
    told = "; ".join(f"{sys.executable} -m runner {command} {closed}; echo ended=$? >&9" for command in commands)
    done = subprocess.run(f"exec 9>&1; {told}", shell=True, input="", capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert "Traceback" not in done.stdout + done.stderr
    return [int(status) for status in re.findall(r"ended=(\d+)", done.stdout)]


def test_closed_streams_are_no_failure():
    """Services are started without them; results lie in files then, and the status says the rest."""
    assert _statuses(CLOSED["all"], "--version") == [0]


@pytest.mark.slow
@pytest.mark.parametrize("closed", CLOSED.values(), ids=CLOSED)
def test_a_closed_stream_is_no_failure_of_any_command(closed, tmp_path):
    out = tmp_path / "plan.json"
    assert _statuses(closed, f"placement head -o {out}", "lint nothing", "lsp", "run head") == [0, 1, 0, 0]
    assert json.loads(out.read_text())["steps"]
