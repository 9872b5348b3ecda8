"""`ringgraph generate` over ranks when something goes wrong: a clear error, the cause and the place, and nothing left running."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
from pathlib import Path

import pytest
from places import TESTS
from rank_helpers import alive, ended, free_port, wait_for_stopped
from sampled import sampled
from warm import Warm

from runner.checkpoint.random import init_checkpoint
from runner.cli.main import main
from runner.config.config import load_config

FAULTS = TESTS / "rank_programs" / "faults"
PROMPTS = [[1, 2, 3], [4, 5, 6, 7], [8], [9, 10]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    config = load_config(["tiny"], ("compress_ratios=[0,4]", "num_hidden_layers=2", "num_hash_layers=1"))
    return init_checkpoint(config, tmp_path_factory.mktemp("faults") / "tiny", seed=0)


def generate(checkpoint: Path, *arguments: str, fault: str = "", **env: str) -> Warm:
    """The command, with a fault in one of its ranks (see `faults/sitecustomize.py`)."""
    prompts = checkpoint.parent / "prompts.json"
    prompts.write_text(json.dumps(PROMPTS))
    command = ["-m", "runner", "generate", "--checkpoint", checkpoint, "--prompts", prompts, "--max-new-tokens", "3"]
    env = {**os.environ, "RINGGRAPH_FAULT": fault, "PYTHONPATH": f"{FAULTS}{os.pathsep}{FAULTS.parents[2]}", **env}
    return Warm([*command, *arguments], env, num_ranks=2 * ("--ep" in arguments), start_new_session=True)


KILLS = [
    ("1|loading weights|kill", "loading weights"),
    ("1|prefill call 1, node '.*qk_pv'|kill", r"prefill call 1, node 'layer_0\.attention\S*qk_pv'"),
    ("0|prefill call 0, node 'layer_1.*dispatch'|kill", r"prefill call 0, node 'layer_1\.moe\.dispatch'"),
    ("1|decode call 1, node '.*combine_push'|kill", r"decode call 1, node 'layer_0\.moe\.experts\.combine_push'"),
]


@pytest.mark.parametrize(("fault", "place"), sampled(KILLS, KILLS[2:3]))
def test_a_rank_that_is_killed(tiny, fault, place):
    code, out, err = ended(generate(tiny, "--ep", "2", fault=fault))
    victim, other = fault[0], str(1 - int(fault[0]))
    assert (code, out) == (1, "")
    assert re.fullmatch(rf"error: \[rank {victim}\] was killed \(SIGKILL\) in {place}\nrank {other} was ended with it\n", err), (
        err
    )


@pytest.mark.parametrize("workers", sampled(("1", "2"), ("2",)))
def test_what_nobody_foresaw_is_one_line_and_a_file(tiny, workers):
    code, out, err = ended(
        generate(tiny, "--ep", "2", "--workers", workers, fault="1|decode call 1, node '.*combine_push'|raise")
    )
    assert (code, out) == (1, "")
    node = r"layer_0\.moe\.experts\.combine_push" if workers == "1" else r"[\w.]+"  # another worker may have begun a node since
    found = re.fullmatch(
        rf"error: \[rank 1\] failed in decode call 1, node '{node}': "
        r"RuntimeError: the test made this up\n"
        r"rank 0 was ended with it\n"
        r"hint: this is a mistake in ringgraph: please report it, with (\S+)\n",
        err,
    )
    assert found is not None, err
    file = Path(found[1])
    text = file.read_text()
    file.unlink()
    assert text.count("Traceback (most recent call last)") == 1 and "sitecustomize.py" in text


def test_a_rank_that_never_answers(tiny):
    fault = "1|decode call 0, node 'layer_1.*dispatch'|stop"
    code, out, err = ended(generate(tiny, "--ep", "2", "--timeout-s", "8", fault=fault))
    assert (code, out) == (1, "")
    assert re.search(
        r"error: \[rank 0\] \S+moe.yaml:\d+:\d+: node 'layer_1.moe.dispatch' \(op 'dispatch'\) failed: rank 1 did not answer", err
    )
    assert "within 8 s" in err and "hint: raise --timeout-s if it was only slow" in err
    assert err.endswith("rank 1 was last in decode call 0, node 'layer_1.moe.dispatch'\n")


def broken(tiny: Path, tmp_path: Path, how: str) -> Path:
    folder = Path(shutil.copytree(tiny, tmp_path / how))
    name = "layers.1.ffn.experts.3.w1.weight"
    shard = folder / json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][name]
    data = shard.read_bytes()
    at = data.index(b"layers.1.ffn.experts.3.w1")
    shape = data.index(b"shape", at)
    changed = {
        "truncated": data[:-1000],
        "corrupt": data[:10] + b"\xff" * 20 + data[30:],
        "misshapen": data[:shape] + data[shape:].replace(b"[32,64]", b"[64,32]", 1),
        "mislabelled": data[:at] + b"layers.1.ffn.experts.3.w9" + data[at + 25 :],
    }
    shard.write_bytes(changed[how])
    return folder


MESSAGES = {
    "truncated": r"error K105: tensor '\S+' is truncated: it ends at byte \S+ of shard 'model-\d+-of-\d+.safetensors'",
    "corrupt": r"error K106: shard '\S+model-\d+-of-\d+.safetensors' has a corrupt header: it is not JSON\n"
    r"(error K105: .*\n){19}and \d+ more; 'ringgraph checkpoint inspect' lists all\n$",
    "misshapen": r"error K103: tensor 'layers.1.ffn.experts.3.w1.weight' is f32\[64, 32\], expected f32\[32, 64\]\n$",
    "mislabelled": r"error K107: tensor 'layers.1.ffn.experts.3.w9.weight' lies in shard 'model-\d+-of-\d+.safetensors', but",
}


@pytest.mark.parametrize("how", MESSAGES)
def test_a_bad_shard_is_named_before_ranks_start(tiny, tmp_path, how, capfd):
    err = refused(capfd, broken(tiny, tmp_path, how), "--ep", "2")
    assert re.match(MESSAGES[how], err), err


@pytest.mark.parametrize("reader", sampled((0, 1), (0,)))
def test_a_bad_shard_is_named_by_ranks_under_torchrun(tiny, tmp_path, reader):
    """Where no launcher of ours looks first; here all but the shard's reader could go on, which may hold the store of all."""
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    bad = broken(tiny, tmp_path, "mislabelled")
    ranks = [generate(bad if rank == reader else tiny, "--timeout-s", "120", RANK=str(rank), **world) for rank in range(2)]
    errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert re.match(MESSAGES["mislabelled"], errors[reader])
    assert re.match(rf"error: rank {reader} failed: error K107: tensor 'layers.1.ffn.experts.3.w9.weight'", errors[1 - reader])
    assert [rank.returncode for rank in ranks] == [1, 1]


def refused(capfd, checkpoint: Path, *arguments: str) -> str:
    """What the command says, in this process, which never comes to start ranks."""
    with pytest.raises(SystemExit) as exited:
        main(["generate", "--checkpoint", str(checkpoint), "--prompt-ids", "1,2", *arguments])
    out, err = capfd.readouterr()
    assert (exited.value.code, out) == (1, "")
    return err


def test_numbers_of_ranks_that_cannot_be(tiny, capfd, monkeypatch):
    assert "'n_routed_experts' (16) is not divisible by 'ep' (3)" in refused(capfd, tiny, "--ep", "3")
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert refused(capfd, tiny, "--ep", "8") == (
        "error: the world has 4 ranks (WORLD_SIZE), but --ep is 8\nhint: start 8 ranks, or give --ep 4\n"
    )


def test_a_port_in_use(tiny, capfd):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        err = refused(capfd, tiny, "--ep", "2", "--port", str(port))
    assert err == (
        f"error: port {port} cannot be used for the ranks to meet: address already in use\n"
        "hint: choose another with --port, or leave it out for a free one\n"
    )


def test_ranks_that_are_told_different_things(tiny):
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    more = [["--ignore-eos"], []]
    ranks = [generate(tiny, *more[rank], RANK=str(rank), **world) for rank in range(2)]
    expected = "error: rank 1 has another set of options than rank 0\nhint: start every rank with the same command\n"
    assert [rank.communicate(timeout=300)[1] for rank in ranks] == [expected, expected]


def test_ctrl_c_ends_all_ranks(tiny):
    process = generate(tiny, "--ep", "2", fault="1|decode call 0, node '.*dispatch'|stop")
    ranks = wait_for_stopped(process.pid)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
    assert len(ranks) == 2 and not any(map(alive, ranks))
