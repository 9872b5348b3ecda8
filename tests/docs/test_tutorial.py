"""The tutorial, done by its letter in an empty folder; and starts of `new`, which are right as they are."""

import json
import re
import shlex
import shutil

import pytest
import torch
from places import DOCS
from safetensors.torch import load_file

from runner.cli.main import main

BLOCK = re.compile(r"^```(yaml|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def ringgraph(capsys):
    """Runs a command; status, and all that it printed."""

    def run(command):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(command))
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return ended.value.code or 0, printed.out, printed.err

    return run


def plain(text):
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def test_the_tutorial_does_what_it_says(tmp_path, monkeypatch, ringgraph):
    monkeypatch.chdir(tmp_path)
    done = []
    for kind, text in BLOCK.findall((DOCS / "tutorial.md").read_text(encoding="utf-8")):
        if kind == "yaml":
            name = re.match(r"# (\S+)\n", text)
            assert name is not None
            (tmp_path / name[1]).write_text(text)
            continue
        for example in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = example.partition("\n")
            program, _, command = command.partition(" ")
            if program == "cp":
                shutil.copy(*command.split())
                continue
            assert program == "ringgraph"
            _, out, err = ringgraph(command)
            pattern = re.escape(plain(expected)).replace(r"\.\.\.", ".*")
            both = {plain(out + err), plain(err + out)}
            assert any(re.fullmatch(pattern, one, re.DOTALL) for one in both), f"{command}\n{out}{err}"
            done.append(command.split()[0])
    assert {"lint", "schedule", "view", "run"} <= {*done}
    assert "alloc: {z:" in (tmp_path / "mlp.yaml").read_text()
    found = re.search(r'type="application/json">(.*?)</script>', (tmp_path / "both.html").read_text(), re.DOTALL)
    assert found is not None
    before, after = json.loads(found[1])["differences"]["safe_total_bytes"]
    assert after < before


def test_a_new_graph_lints_clean_and_runs(tmp_path, monkeypatch, ringgraph):
    monkeypatch.chdir(tmp_path)
    assert ringgraph("new graph stage")[0] == 0
    for command in ("lint stage.yaml", "schedule stage.yaml", "run stage.yaml"):
        code, _, err = ringgraph(command)
        assert code == 0, err
    code, _, err = ringgraph("new graph stage")
    assert code == 1 and err == "error: 'stage.yaml' is there already\nhint: choose another name, or remove it\n"


def test_a_new_op_can_be_used_at_once(tmp_path, monkeypatch, ringgraph):
    monkeypatch.chdir(tmp_path)
    ringgraph("new op thrice")
    assert "thrice (AIV)" in ringgraph("ops show thrice --ops thrice.py")[1]
    text = (tmp_path / "thrice.py").read_text()
    node = re.search(r"\n\n((?:    .*\n)+)\"\"\"", text)
    assert node is not None
    head = 'graph: g\ninputs: {x: "f32[2, 3]"}\noutputs: {y: "f32[2, 3]"}\nbody:\n'
    (tmp_path / "g.yaml").write_text(head + node[1])
    for command in ("lint g.yaml", "run g.yaml --dump x,y --out y.safetensors"):
        code, out, err = ringgraph(f"{command} --ops thrice.py")
        assert code == 0, out + err
    found = load_file(tmp_path / "y.safetensors")
    assert torch.equal(found["y"], 3 * found["x"])


def test_a_new_family_serves(tmp_path, monkeypatch, ringgraph):
    """The commands of its own comments, which lead from lint to tokens."""
    monkeypatch.chdir(tmp_path)
    ringgraph("new family toy")
    monkeypatch.chdir(tmp_path / "toy")
    commands = re.findall(r"^#   ringgraph (.*)$", (tmp_path / "toy" / "family.yaml").read_text(), re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["config", "lint", "checkpoint", "generate"]
    for command in commands:
        code, out, err = ringgraph(command)
        assert code == 0, err
    assert "prompt 0 (3 tokens):" in out
    written = [path.name for path in (tmp_path / "toy").glob("*.yaml")]
    assert sorted(written) == ["family.yaml", "toy_decode.yaml", "toy_prefill.yaml", "toy_step.yaml"]


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("new graph 3d", 1, "error: '3d' cannot be a name\nhint: letters, digits and _, a letter first\n"),
        ("new graph ../x", 1, "cannot be a name"),
        ("new loop x", 2, "'loop' has no start; expected one of"),
    ],
)
def test_what_cannot_be_begun_is_refused(tmp_path, monkeypatch, ringgraph, command, status, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = ringgraph(command)
    assert code == status and out == "" and message in " ".join(err.split()).replace(" hint", "\nhint") + "\n"
    assert list(tmp_path.iterdir()) == []
