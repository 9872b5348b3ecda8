"""`run` on every shipped graph under its family's small preset: each ends well, whatever part of a call it takes."""

import pytest

from runner.language.library import shipped_graphs


@pytest.mark.parametrize(("preset", "folder"), [("tiny", "deepseek_v4"), ("qwen3-tiny", "qwen3")])
def test_every_shipped_graph_runs(preset, folder, call):
    small = ("--config", preset, "--set", "decode.batch=2", "--set", "prefill.seq=16", "--set", "num_hidden_layers=2")
    names = [name for name, path in shipped_graphs().items() if path.parent.name == folder]
    assert len(names) >= 5
    for name in names:
        status, out, err = call("run", name, *small)
        assert status == 0 and "most block bytes at once" in out, (name, err)
