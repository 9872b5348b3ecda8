"""The command line: documented examples, statuses, messages; never a traceback for what a user can cause."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from places import DOCS
from safetensors.torch import load_file
from warm import Warm

from runner.cli.main import COMMANDS, app, main

pytestmark = pytest.mark.usefixtures("same_programs")


@pytest.fixture(autouse=True)
def wide_terminal_without_rings(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("PTO2_RING_HEAP", "PTO2_RING_TASK_WINDOW", "PTO2_RING_DEP_POOL"):
        monkeypatch.delenv(name, raising=False)


LAYERS = ("--set", "num_hidden_layers=3", "--set", "compress_ratios=[0,4,128]")
"""A layer of each kind: commands start sooner than with the six of `tiny`."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("cli") / "model"
    with pytest.raises(SystemExit):
        main(["checkpoint", "init", "--config", "tiny", *LAYERS, str(folder)])
    return str(folder)


@pytest.fixture
def ringgraph(capsys):
    """Runs a command: status, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return ended.value.code or 0, printed.out, printed.err

    return run


def examples() -> list[tuple[str, str]]:
    blocks = re.findall(r"^```console\n(.*?)^```", (DOCS / "cli.md").read_text(), re.MULTILINE | re.DOTALL)
    found = [example.partition("\n") for block in blocks for example in block.split("$ ringgraph ")[1:]]
    return [(command, expected) for command, _, expected in found]


def plain(text: str) -> str:
    """Without the widths of columns, which depend on what is in them."""
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def test_documented_examples_print_what_they_say(tmp_path, monkeypatch, ringgraph):
    monkeypatch.chdir(tmp_path)
    shown = examples()
    assert len(shown) >= 9
    for command, expected in shown:
        _, out, err = ringgraph(*shlex.split(command))
        pattern = re.escape(plain(expected)).replace(r"\.\.\.", ".*")
        assert re.fullmatch(pattern, plain(out + err), re.DOTALL), f"{command}\n{out}{err}"


def test_every_command_is_in_the_text():
    text = (DOCS / "cli.md").read_text()
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert len(names) + len(app.registered_groups) >= len(COMMANDS)
    for name in (*names, *(group.name for group in app.registered_groups)):
        assert f"`{name}" in text, name


def test_version_and_help(ringgraph):
    code, out, _ = ringgraph("--version")
    assert code == 0 and re.fullmatch(r"ringgraph \d+\.\d+\.\d+\n", out)
    for command in ([], ["generate"], ["run"], ["schedule"], ["checkpoint", "convert"], ["ring-heap", "replay"]):
        code, out, _ = ringgraph(*command, "--help")
        assert code == 0 and "Usage: ringgraph" in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_names_commands(shell):
    words = {
        "bash": {"COMP_WORDS": "ringgraph ", "COMP_CWORD": "1"},
        "zsh": {},
        "fish": {"_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }
    env = {**os.environ, "_RINGGRAPH_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": "ringgraph ", **words[shell]}
    done = subprocess.run([sys.executable, "-m", "runner.cli.main"], env=env, capture_output=True, text=True)
    assert all(name in done.stdout for name in ("generate", "lint", "checkpoint"))


def test_help_and_lint_start_without_torch():
    code = (
        "import sys; from runner.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


USAGE = [
    ("lint", "moe", "--format", "xml"),
    ("generate",),
    ("generate", "--checkpoint", "DIR"),
    ("run", "moe", "--dump", "x_next"),
    ("run", "moe", "--scope-stats", "f"),
    ("recv-depth",),
    ("nonsense",),
    ("run", "moe", "--seed", "x"),
]


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_unusable_arguments_end_with_2(arguments, model, ringgraph):
    code, out, err = ringgraph(*(model if argument == "DIR" else argument for argument in arguments))
    assert code == 2 and out == "" and "Usage" in err


def problems(tmp_path: Path, model: str) -> list[tuple[tuple[object, ...], str]]:
    """Commands that fail, and what they must say."""
    (tmp_path / "prompts.json").write_text("[[1, 2")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.safetensors").write_bytes(b"\x00" * 20)
    generate = ("generate", "--checkpoint", model)
    ids = (*generate, "--prompt-ids", "1")
    return [
        (("run", "nonexistent"), "no file and no shipped graph is called 'nonexistent'"),
        (("run", "moe", "--config", "tinny"), "did you mean 'tiny'?"),
        (("run", "moe", "--set", "o_groups=3"), "o_groups=3"),
        (("run", "moe", "--scheduler", "anotated"), "unknown scheduler 'anotated'\nhint: did you mean 'annotated'?"),
        (("run", "moe", "--device", "nodevice"), "device 'nodevice' cannot be used here"),
        (("run", "moe", "--inputs", tmp_path / "bad.safetensors"), "cannot be read"),
        (("run", "moe", "--inputs", tmp_path / "none"), "cannot be read"),
        (("run", "moe", "--golden", tmp_path / "empty"), "holds no .safetensors file"),
        (("run", "moe", "--dump", "x_nxt", "--out", "f"), "no tensor is called 'x_nxt'; did you mean 'x_next'?"),
        (("run", "moe", "--checkpoint", tmp_path / "empty"), "empty"),
        (("run", "moe", "--scope-stats", "/proc/none/x", "--ring-heap", "safe"), "'/proc/none/x': no such file or directory"),
        (("schedule", "moe", "--scope-stats", "/proc/none/x"), "'/proc/none/x': no such file or directory"),
        (("dot", "moe", "--out", "/"), "'/': is a directory"),
        (("run", "moe", "--ring-heap", "1QiB"), "'1QiB' is not a size"),
        (("explain", "moe", "gaet"), "no node of 'moe' is called 'gaet'"),
        (("dot", "moe", "--level", "galaxy"), "galaxy"),
        (("ops", "show", "rms_nrom"), "no op is called 'rms_nrom'\nhint: did you mean 'rms_norm'?"),
        (("config", "show", "hidden_sise"), "did you mean 'hidden_size'?"),
        (("checkpoint", "init", model), "exists"),
        (("checkpoint", "inspect", tmp_path / "empty"), "empty"),
        (("generate", "--checkpoint", tmp_path / "empty", "--prompt-ids", "1"), "has no config.json"),
        ((*generate, "--prompt-ids", "1,512"), "prompt 0: token 512 at 1 is outside of the vocabulary of 512"),
        ((*generate, "--prompt-ids", "1,a"), "--prompt-ids 1,a: expected token ids"),
        ((*generate, "--prompts", tmp_path / "prompts.json"), "prompts.json:1:7: not JSON"),
        ((*generate, "--prompts", tmp_path / "none.json"), "none.json': no such file or directory"),
        ((*generate, "--prompt", "hello"), "has no tokenizer.json"),
        ((*ids, "--deploy", "decod"), "unknown deployment 'decod'"),
        ((*ids, "--max-new-tokens", "5000"), "prompt 0 needs 5,001 positions with its new tokens, the model has 4,096"),
        ((*ids, "--dtype", "f12"), "f12"),
        ((*ids, "--scope-stats", tmp_path / "s"), "--scope-stats needs rings"),
        ((*ids, "--ring-heap", "64KiB"), "can deadlock"),
        ((*ids, "--ring-heap", "safe", "--ring-window", "4"), "hint: sizes that work: --ring-window "),
        ((*ids, "--ring-pool", "128", "--workers", "2"), "hint: sizes that work: --ring-pool "),
        ((*ids, "--logits", "/proc/none/x", "--max-new-tokens", "1"), "no such file or directory"),
        ((*ids, "--record-routing", "/"), "is a directory"),
        (("recv-depth", "--routing", tmp_path / "prompts.json"), "prompts.json"),
    ]


def test_problems_are_told_in_words_and_end_with_1(tmp_path, model, ringgraph):
    for arguments, expected in problems(tmp_path, model):
        code, _, err = ringgraph(*arguments)
        assert code == 1, (arguments, err)
        assert expected in err, (arguments, err)


@pytest.mark.parametrize(("text", "code"), [(None, 0), ("graph: x\n", 1), ("graph: [", 1)])
def test_lint_statuses(text, code, tmp_path, ringgraph):
    path = tmp_path / "x.yaml"
    path.write_text(text or "graph: x\nbody:\n  - alloc: {a: 'f32[4]'}\n  - op: rms_norm\n    in: {x: nothing}\n")
    found, _, _ = ringgraph("lint", "head" if text is None else path)
    assert found == code


def test_generate_as_json_with_logits_and_everything_recorded(tmp_path, model, ringgraph):
    (tmp_path / "p.json").write_text(json.dumps([[1, 2, 3], list(range(130))]))
    files = {name: tmp_path / name for name in ("logits", "stats", "routing")}
    common = (
        "generate",
        "--checkpoint",
        model,
        "--prompts",
        tmp_path / "p.json",
        "--max-new-tokens",
        "5",
        "--ignore-eos",
        "--json",
    )
    code, out, _ = ringgraph(
        *common,
        "--logits",
        files["logits"],
        "--ring-heap",
        "safe",
        "--scope-stats",
        files["stats"],
        "--record-routing",
        files["routing"],
    )
    made = json.loads(out)
    assert code == 0 and [len(tokens) for tokens in made["tokens"]] == [5, 5]
    assert made["prompt_tokens"] == 133 and made["new_tokens"] == 10 and made["num_tasks"] > 1000
    assert len(made["ring_heap_bytes"]) == 4 and sum(made["ring_peak_bytes"]) == made["peak_block_bytes"]
    logits = load_file(files["logits"])
    shapes = {name: tuple(tensor.shape) for name, tensor in logits.items()}
    assert shapes == {
        "prompt.0.prefill": (3, 512),
        "prompt.0.decode": (4, 512),
        "prompt.1.prefill": (130, 512),
        "prompt.1.decode": (4, 512),
    }
    for n, tokens in enumerate(made["tokens"]):
        rows = torch.cat([logits[f"prompt.{n}.prefill"][-1:], logits[f"prompt.{n}.decode"]])
        assert rows.argmax(dim=1).tolist() == tokens
    code, out, _ = ringgraph(*common, "--workers", "2", "--deploy", "decode-mtp")
    assert json.loads(out)["tokens"] == made["tokens"]
    assert json.loads(out)["ring_heap_bytes"] is None
    code, out, _ = ringgraph("recv-depth", "--routing", files["routing"], "--json")
    assert {phase["phase"] for phase in json.loads(out)["phases"]} == {"prefill", "decode"}
    code, out, _ = ringgraph("scope-stats", "show", files["stats"])
    assert code == 0 and "moe.yaml" in out


def test_context_grows_to_what_prompts_need(tmp_path, model, ringgraph):
    (tmp_path / "p.json").write_text(json.dumps([list(range(200))]))
    code, out, _ = ringgraph(
        "generate",
        "--checkpoint",
        model,
        "--prompts",
        tmp_path / "p.json",
        "--max-new-tokens",
        "2",
        "--set",
        "max_context=128",
        "--json",
    )
    assert code == 0 and len(json.loads(out)["tokens"][0]) == 2


def test_texts_in_and_out_with_the_checkpoints_tokenizer(tmp_path, model, ringgraph):
    tokenizers = pytest.importorskip("tokenizers")
    shutil.copytree(model, tmp_path / "model")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{i}": i for i in range(512)}, unk_token="w0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "model" / "tokenizer.json"))
    common = ("generate", "--checkpoint", tmp_path / "model", "--max-new-tokens", "3", "--ignore-eos")
    _, out, _ = ringgraph(*common, "--prompt", "w7 w300", "--json")
    texts, tokens = json.loads(out)["texts"], json.loads(out)["tokens"]
    assert texts == [" ".join(f"w{token}" for token in tokens[0])]
    _, out, _ = ringgraph(*common, "--prompt-ids", "7,300")
    assert repr(texts[0]) in out


def test_more_requests_than_the_default_batch(model, ringgraph):
    ids = [argument for n in range(10) for argument in ("--prompt-ids", n)]
    code, out, _ = ringgraph(
        "generate", "--checkpoint", model, *ids, "--max-new-tokens", "3", "--set", "decode.batch=10", "--json"
    )
    assert code == 0
    assert json.loads(out)["decode_calls"] == 2


def test_rings_of_the_environment_are_used(model, ringgraph, monkeypatch):
    monkeypatch.setenv("PTO2_RING_HEAP", str(32 * 2**20))
    _, out, _ = ringgraph("generate", "--checkpoint", model, "--prompt-ids", "1", "--max-new-tokens", "1", "--json")
    assert json.loads(out)["ring_heap_bytes"] == [32 * 2**20] * 4


def test_run_compares_with_golden_tensors(tmp_path, ringgraph):
    golden = tmp_path / "golden"
    assert ringgraph("run", "head", "--dump", "logits,x_head", "--out", golden / "a.safetensors")[0] == 0
    assert set(load_file(golden / "a.safetensors")) == {"logits", "x_head"}
    code, out, _ = ringgraph("run", "head", "--golden", golden, "--workers", "2")
    assert code == 0 and out.count("equal") == 2
    code, out, err = ringgraph("run", "head", "--golden", golden, "--seed", "1")
    assert code == 1 and out.count("differs") == 2
    assert err == "error: 2 of 2 tensors differ from the golden ones (rtol 0.0001, atol 1e-05)\n"


def test_run_with_given_inputs_profile_and_scope_stats(tmp_path, ringgraph):
    path = tmp_path / "x.safetensors"
    ringgraph("run", "head", "--dump", "x_hc,logits", "--out", path, "--seed", "3")
    files = ("--profile", tmp_path / "p.json", "--scope-stats", tmp_path / "s.jsonl", "--ring-heap", "64MiB")
    code, _, _ = ringgraph("run", "head", "--inputs", tmp_path / "only.safetensors", *files)
    assert code == 1
    given = load_file(path)
    from safetensors.torch import save_file

    save_file({"x_hc": given["x_hc"] * 2}, tmp_path / "only.safetensors")
    code, _, _ = ringgraph("run", "head", "--inputs", tmp_path / "only.safetensors", *files, "--seed", "3", "--golden", path)
    assert code == 1, "another input gives other logits"
    profile = json.loads((tmp_path / "p.json").read_text())
    assert sum(op["count"] for op in profile["ops"].values()) == len(profile["tasks"]) > 5
    assert ringgraph("schedule", "head", "--progress", "timed", "--profile", tmp_path / "p.json", "--json")[0] == 0


def test_a_full_disk_at_a_side_file_is_told_behind_the_result(model, tmp_path, ringgraph):
    generate = ("generate", "--checkpoint", model, "--prompt-ids", "1,2", "--max-new-tokens", "2")
    sides = (("--scope-stats", "/dev/full", "--ring-heap", "safe"), ("--record-routing", "/dev/full"))
    for side in sides:
        code, out, err = ringgraph(*generate, *side, "--json")
        assert code == 1 and len(json.loads(out)["tokens"][0]) == 2
        assert err == "error: '/dev/full': no space left on device\n"
    code, out, err = ringgraph("run", "head", "--profile", "/dev/full", "--out", tmp_path / "new" / "x.safetensors")
    assert code == 1 and "tasks" in out and err == "error: '/dev/full': no space left on device\n"
    assert (tmp_path / "new" / "x.safetensors").is_file()
    code, out, err = ringgraph("schedule", "moe", "--config", "tiny", "--scope-stats", "/dev/full", "--json")
    assert code == 1 and json.loads(out)["rings"] and err == "error: '/dev/full': no space left on device\n"


ENDLESS = """
import sys
import time
from pathlib import Path
import runner.serving.generate
from runner.cli.main import main

agreed = runner.serving.generate._agreed

def tell(comm, wanted):
    Path("in a call").touch()
    return agreed(comm, wanted)

runner.serving.generate._agreed = tell
main(sys.argv[1:])
"""
"""Generates like the command, and says when it does."""


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ctrl_c_ends_cleanly(model, workers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["generate", "--checkpoint", model, "--prompt-ids", "1", "--ignore-eos", "--max-new-tokens", "4000", "--json"]
    process = Warm(["-c", ENDLESS, *arguments, "--workers", workers])
    while not Path("in a call").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert out == "" and "Traceback" not in err
