"""Malformed files and options: each ends in an error that starts with where it is, never in a traceback or as markup."""

import json
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from places import DATA, ROOT

from runner.base.reading import MAX_DEPTH, NotJsonError, parse_json
from runner.cli.main import main
from runner.cli.shared import console, messages, table

DIGITS = "9" * 5000
NUMBERS = ("1e400", "-1e400", DIGITS, "Infinity", "NaN", "9" * 25)
DEEP = ("[" * 200_000, "[" * 300 + "]" * 300, '{"a":' * 200_000)
TINY = ("--config", "tiny")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "model"
    with pytest.raises(SystemExit):
        main(["checkpoint", "init", "--config", "tiny", str(folder)])
    return folder


@pytest.fixture
def told(capsys):
    """Runs a command: status, standard output, standard error; any other end than SystemExit fails the test."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return run


def refused(found: tuple[int, str, str]) -> str:
    status, printed, error = found
    assert status in (1, 2) and "Traceback" not in error, (status, error[:300])
    text = error or printed  # lint prints its findings where results go
    assert len(re.findall(r"\berror\b|╭─ Error", text)) == 1, text[:600]
    assert len(text) < 25_000  # a line of 5,000 digits may be shown with its caret, and nothing more
    return text


# --- the readers ------------------------------------------------------------------------------------------------------

YAML_VALUES = (
    *("1e400", "-1e400", DIGITS, "0x" + "f" * 5000, "0x_", ".Inf", "-.inf", ".nan", "9" * 25, "&a [*a]", "&a {b: *a}"),
    *('"\\U7FFFFFFF"', "[" * 2000, "{? [1] : 2}", "[1e400]", "[" * 300 + "]" * 300),
)


@pytest.mark.parametrize("value", YAML_VALUES, ids=lambda value: value[:12])
def test_a_configuration_in_yaml(value, tmp_path, told):
    path = tmp_path / "c.yaml"
    path.write_text(f"num_hidden_layers: {value}\n")
    text = refused(told("config", "show", *TINY, "--config", path))
    assert "c.yaml:" in text or "c.yaml'" in text
    refused(told("config", "show", *TINY, "--set", f"num_hidden_layers={value}"))


@pytest.mark.parametrize("value", (*NUMBERS, *DEEP), ids=lambda value: value[:12])
def test_a_configuration_in_json(value, checkpoint, tmp_path, told):
    path = tmp_path / "config.json"
    fields = json.loads((checkpoint / "config.json").read_text()) | {"vocab_size": None}
    path.write_text(json.dumps(fields).replace('"vocab_size": null', f'"vocab_size": {value}'))
    assert "config.json:1" in refused(told("config", "show", "--config", path))


GRAPH = """\
params: {{x: {type}}}
outputs: {{y: "f32[T, D]"}}
body:
  - op: rms_norm
    in: {{x: x, gamma: {type}}}
    attrs: {{eps: {value}}}
"""
GRAPH_VALUES = (
    *("1e400", "0x_", DIGITS, "1_" + "0" * 5000, "0o" + "7" * 5000, "0b_", '"\\U7FFFFFFF"', "&a [*a]", "[" * 2000),
    *("9" * 25, "%YAML 1." + DIGITS, "1" * 400 + "e1"),
)


@pytest.mark.parametrize("value", GRAPH_VALUES, ids=lambda value: value[:12])
def test_a_graph(value, tmp_path, told):
    path = tmp_path / "g.yaml"
    path.write_text(GRAPH.format(type='"f32[T, D]"', value=value))
    status, printed, error = told("lint", path, *TINY)
    assert status == 1 and "g.yaml:" in printed + error and "Traceback" not in error
    status, _, error = told("schedule", path, *TINY)
    assert status == 1 and "g.yaml:" in error and "Traceback" not in error


def _places(text: str) -> list[re.Match]:
    """Where numbers stand in a JSON text."""
    return [m for m in re.finditer(r'"(?:[^"\\]|\\.)*"|(-?\d+)', text) if m[1]]


def _with(text: str, value: str) -> str:
    at = _places(text)[0]
    return text[: at.start()] + value + text[at.end() :]


CASE = (DATA / "conformance" / "05_loop_inner_scope.json").read_text()
META = {"version": 6, "fatal": False, "dropped": 0, "total": 2, "heap_max": [1024] * 4, "task_window_max": [16] * 4}
FIELDS = ("heap_start", "heap_end", "task_window_start", "task_window_end", "dep_pool_start", "dep_pool_end")
META["dep_pool_max"] = META["task_window_max"]


def _stats(site: str) -> str:
    record = {"site": site, "depth": 0, "ring": 0, **dict.fromkeys(FIELDS, 0), "tensormap": 0}
    lines = [META, record | {"phase": "begin"}, record | {"phase": "end", "heap_end": 512}]
    return "".join(json.dumps(line) + "\n" for line in lines)


HEADER = '{"format": "ringgraph-routing", "version": 1, "n_routed_experts": %s, "num_experts_per_tok": 2, "ranks": 1}\n'
JSON_READERS = {
    "recorded program": (("ring-heap", "replay", "FILE"), lambda value: _with(CASE, value)),
    "scope stats": (("scope-stats", "show", "FILE"), lambda value: _stats("a:1").replace("512", value)),
    "routing": (("schedule", "decode_fwd", *TINY, "--routing", "FILE"), lambda value: f"[[{value}]]"),
    "recorded routing": (("schedule", "decode_fwd", *TINY, "--routing", "FILE"), lambda value: HEADER % value),
    "prompts": (("generate", "--checkpoint", "MODEL", "--prompts", "FILE"), lambda value: f"[[1, {value}]]"),
    "profile": (
        ("schedule", "decode_fwd", *TINY, "--progress", "timed", "--profile", "FILE"),
        lambda value: f'{{"tasks": [{{"path": "a", "us": {value}}}], "ops": {{}}}}',
    ),
    "index": (("checkpoint", "inspect", "COPY"), lambda value: f'{{"weight_map": {{"a": {value}}}}}'),
}


@pytest.mark.parametrize("value", (*NUMBERS, *DEEP), ids=lambda value: value[:12])
@pytest.mark.parametrize("reader", JSON_READERS)
def test_other_files_of_json(reader, value, checkpoint, tmp_path, told):
    command, text = JSON_READERS[reader]
    path = tmp_path / "given.json"
    if "COPY" in command:
        path = tmp_path / "model.safetensors.index.json"
        (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    path.write_text(text(value))
    names = {"FILE": path, "MODEL": checkpoint, "COPY": tmp_path}
    assert path.name in refused(told(*(names.get(part, part) for part in command)))


OPTIONS = (
    *(("size", "decode_fwd", *TINY, "--routing", f"random:{DIGITS}"), ("generate", "--checkpoint", "x", "--prompt-ids", DIGITS)),
    *(("schedule", "decode_fwd", *TINY, "--cores", f"aic={DIGITS}"), ("schedule", "decode_fwd", *TINY, "--ep", DIGITS)),
    *(("run", "head", *TINY, "--ring-heap", value) for value in (DIGITS, "1" * 400 + ".5", "1e400")),
    *(("run", "head", *TINY, option, "100000") for option in ("--workers", "--threads")),
    ("frontier", "head", "--points", "9" * 20),
    *(("watch", "head", "--rounds", "1", "--every", value) for value in ("1e400", "99999999999999999999999")),
    *(("run", "head", *TINY, option, DIGITS) for option in ("--ring-window", "--ring-pool", "--seed", "--threads")),
    ("checkpoint", "init", "out", *TINY, "--seed", DIGITS),
    *(("schedule", "decode_fwd", *TINY, "--scheduler", "minpeak", "--budget", value) for value in (DIGITS, "1" * 400 + ".5")),
    *(("schedule", "decode_fwd", *TINY, "--progress", "timed", "--task-us", value) for value in ("1e400", "nan", "inf")),
    *(("schedule", "decode_fwd", *TINY, "--progress", "timed", "--submit-us", value) for value in ("1e400", "nan")),
)


@pytest.mark.parametrize("command", OPTIONS, ids=lambda command: f"{command[0]} {command[-2]} {command[-1][:12]}")
def test_options(command, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(told(*command))


@pytest.mark.parametrize("option", ["routing", "profile", "device", "config", "ops", "set", "scheduler", "ring-heap"])
def test_options_of_no_text(option, told):
    assert refused(told("schedule", "head", f"--{option}", ""))


def test_numbers_are_told_where_they_stand():
    for token in NUMBERS:
        with pytest.raises(NotJsonError) as found:
            parse_json(f'{{"{token}": [1,\n  {token}]}}')
        assert (found.value.line, found.value.column) == (2, 3), token
    assert parse_json("[NaN, Infinity]", any_number=True)[1] == float("inf")
    assert parse_json(f"[{2**63 - 1}, {-(2**63) + 1}, 1e308]") == [2**63 - 1, -(2**63) + 1, 1e308]
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(deepest) is not None
    with pytest.raises(NotJsonError, match="nested too deeply"):
        parse_json(f"[{deepest}]")


# --- mutated files ----------------------------------------------------------------------------------------------------

PIECES = (*NUMBERS, *'[]{}",:-', "\\", "&a ", "*a", "0x_", "\x00", "\ud7ff", "")


def mutated(text: str, rng: random.Random) -> bytes:
    """One to three pieces put in, cut out, doubled or replaced, and sometimes a byte that is no UTF-8."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice((*PIECES, text[at : at + 30] * 2)) + text[at + rng.choice((0, 1, 12)) :]
    data = text.encode()
    return data[: len(data) // 2] + b"\xff" + data[len(data) // 2 :] if rng.random() < 0.05 else data


@pytest.mark.parametrize("num", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_mutated_files(num, checkpoint, tmp_path, told):
    """Whatever the file has become, the command says so in few words or takes it."""
    tiny = (ROOT / "graphs" / "config" / "tiny.yaml").read_text()
    cases = {
        "m.yaml": (tiny, ("config", "show", "--config", "m.yaml")),
        "config.json": ((checkpoint / "config.json").read_text(), ("config", "show", "--config", "config.json")),
        "g.yaml": ((ROOT / "graphs" / "deepseek_v4" / "head.yaml").read_text(), ("lint", "g.yaml", *TINY)),
        "p.json": (CASE, ("ring-heap", "replay", "p.json")),
        "s.jsonl": (_stats("a:1"), ("scope-stats", "show", "s.jsonl")),
    }
    rng, refusals = random.Random(11), 0
    for number in range(num):
        name, (text, command) = list(cases.items())[number % len(cases)]
        path = tmp_path / name
        path.write_bytes(mutated(text, rng))
        status, _, error = told(*(str(path) if part == name else part for part in command))
        assert status in (0, 1) and "Traceback" not in error, (number, error)
        refusals += status
    assert refusals > num // 2


# --- names from files are no markup -----------------------------------------------------------------------------------

HOSTILE = ("[/a]", "[red]x", "\\[b]", ":warning:", "[link=x]y[/link]")


@pytest.mark.parametrize("name", HOSTILE)
def test_tables_and_messages_show_text_as_it_is(name, capsys):
    for made in (console(), messages()):
        out = table(name, title=name)
        out.add_row(name)
        made.print(out, name)
    printed = capsys.readouterr()
    assert printed.out.count(name) == printed.err.count(name) == 4


@pytest.mark.parametrize("name", HOSTILE)
def test_commands_show_hostile_names(name, tmp_path, told, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")  # a folded name is not found again
    stats = tmp_path / "s.jsonl"
    stats.write_text(_stats(name))
    program = tmp_path / "p.json"
    items = [{"alloc": name, "bytes": 64}, {"task": name, "inouts": [name]}]
    program.write_text(json.dumps({"name": name, "program": {"items": items}}))
    layer = tmp_path / "c.yaml"
    layer.write_text(f"dims: {{{json.dumps(name)}: 3}}\n")
    commands = (("scope-stats", "show", stats), ("scope-stats", "diff", stats, stats), ("ring-heap", "replay", program))
    for command in commands:
        status, printed, error = told(*command)
        assert status == 0 and name in printed, error
    status, printed, error = told("config", "show", *TINY, "--config", layer)
    assert name in (printed if status == 0 else error)


def test_the_two_sides_of_a_diff_show_hostile_names(tmp_path, told):
    found = json.loads(told("schedule", "decode_fwd", *TINY, "--json")[1])
    paths = (tmp_path / "[red]left.json", tmp_path / "right.json")
    found["scopes"] = found["scopes"][:1]
    for path, size in zip(paths, (1, 2), strict=True):
        found["scopes"][0] |= {"name": "[/a]", "num_blocks": size}
        path.write_text(json.dumps(found))
    status, printed, error = told("schedule-diff", *paths)
    assert (status, error) == (0, "") and "[red]left.json" in printed
    assert "[/a]" in printed


def test_commands_have_no_other_console():
    """`runner.cli.shared` makes every console that shows names; the one of a progress bar shows titles of ours."""
    for path in (ROOT / "runner").rglob("*.py"):
        if path.name != "shared.py":
            assert "Console(" not in path.read_text() and "from_markup" not in path.read_text(), path


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_s", (0.08, 0.15, 0.25, 0.4))
def test_ctrl_c_while_the_command_starts(after_s):
    """From the first line of ours on; what Python itself does before that is not in our hands."""
    code = "from runner.__main__ import main; print('up', flush=True); main()"
    command = [sys.executable, "-c", code, "schedule", "decode_fwd", *TINY]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert (process.returncode, error.strip()) == (130, "interrupted")


# --- graphs without tasks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ("[]", "[{for: t, range: 3, body: [{for: s, range: 3, body: []}]}]"))
def test_a_graph_without_tasks_goes_through_every_planner(body, tmp_path, told):
    path = tmp_path / "g.yaml"
    path.write_text(f"graph: g\nbody: {body}\n")
    for command in (
        ("frontier", path),
        ("size", path),
        *(("schedule", path, "--scheduler", name) for name in ("minpeak", "autoscope")),
    ):
        status, _, error = told(*command, *TINY)
        assert status == 0, (command, error)
