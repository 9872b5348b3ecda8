"""The demo's comparison of rings: tokens unchanged, and both strategies' stall told."""

import json

import pytest

from docs.examples.demo import compare_rings
from runner.cli.main import main


def test_tokens_do_not_depend_on_the_rings(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["checkpoint", "init", "--config", "tiny", "--set", "num_hidden_layers=3", "--seed", "0", str(tmp_path / "model")])
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([[1], [2, 3, 4]]))
    run = ("generate", "--checkpoint", tmp_path / "model", "--prompts", prompts, "--max-new-tokens", 3, "--ignore-eos")
    capsys.readouterr()
    compare_rings(run, tmp_path / "model" / "config.json")
    out = capsys.readouterr().out
    assert "the same 6 tokens on rings of " in out
    assert out.count("timed: makespan ") == 2 and out.count("with unlimited rings") == 2
