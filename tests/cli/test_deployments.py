"""A graph says in its file which deployment it is for; every command takes it, and `--deploy` overrides it."""

import pytest

from runner.language.library import load_graph, shipped_graphs

GRAPH = """\
graph: said
deploy: prefill
inputs: {x: "{act}[128, D]"}
weights: {w: {type: "{wd}[D]", from: "layers.0.attn_norm.weight"}}
outputs: {y: "{act}[T, D]"}
body:
  - op: rms_norm
    in: {x: x, w: w}
    out: {y: y}
"""
"""Right for calls of 128 tokens only: those of the deployment `prefill`."""

COMMANDS = ["lint", "schedule", "size", "dot", "run", "frontier", "explain"]


@pytest.fixture
def graph(tmp_path):
    path = tmp_path / "said.yaml"
    path.write_text(GRAPH)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_the_graphs_own_deployment(command, graph, call):
    arguments = (command, graph, *["rms_norm"] * (command == "explain"), *["--points", "1"] * (command == "frontier"))
    code, out, err = call(*arguments)
    assert code == 0, out + err
    code, out, err = call(*arguments, "--deploy", "decode")
    assert code == 1 and "G303" in out + err


def test_shipped_graphs_of_one_kind_of_call_say_which():
    said = {name: load_graph(path).deploy for name, path in shipped_graphs().items()}
    kinds = {name: None if deploy is None else str(deploy) for name, deploy in said.items()}
    for name, kind in kinds.items():
        assert kind == next(
            (k for k in ("decode-mtp", "decode", "prefill") if k.replace("-", "_") in name.replace("_fwd_mtp", "_mtp")), None
        ), name


@pytest.mark.parametrize("command", ["lint", "schedule", "size"])
def test_an_unknown_deployment_is_told_at_its_place(command, graph, call, monkeypatch):
    monkeypatch.chdir(graph.parent)
    graph.write_text(GRAPH.replace("deploy: prefill", "deploy: prefil"))
    code, out, err = call(command, "said.yaml")
    assert code == 1
    assert (out + err).startswith(
        "said.yaml:2:9: error C103: unknown deployment 'prefil'\ndeploy: prefil\n        ^\nhint: did you mean 'prefill'?\n"
    )


def test_lint_takes_each_graph_of_several_by_itself(graph, call):
    other = graph.parent / "other.yaml"
    other.write_text(GRAPH.replace("said", "other").replace("prefill", "decode").replace("128", "8"))
    (graph.parent / "none.yaml").write_text(GRAPH.replace("said", "none").replace("deploy: prefill\n", ""))
    code, out, _ = call("lint", graph.parent)
    assert code == 1 and out.count("error G303") == 1 and "none.yaml:8" in out
    code, out, _ = call("lint", graph, other)
    assert (code, out) == (0, "")
    code, out, _ = call("lint", graph.parent, "--deploy", "decode")
    assert out.count("error G303") == 2 and "other.yaml" not in out


@pytest.mark.parametrize(("text", "message"), [("[a]", "'deploy' is a list, expected text"), ("' '", "'deploy' is empty")])
def test_a_deployment_is_a_name(text, message, graph, call):
    graph.write_text(GRAPH.replace("deploy: prefill", f"deploy: {text}"))
    code, out, _ = call("lint", graph)
    assert code == 1 and message in out
