"""Depths worked out from recorded routes, against counting them again in another way."""

from __future__ import annotations

import json
import random
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
from places import DOCS

from runner.base.errors import RinggraphError
from runner.checkpoint.random import init_checkpoint
from runner.cli.main import main
from runner.config.config import load_config
from runner.models.deepseek_v4.receive_depth import check_fits, formula_depth, layer_depths, phase_depth, plot
from runner.models.deepseek_v4.recorded_routing import RoutedCall, RoutingTable

pytestmark = pytest.mark.usefixtures("same_programs")


def skewed_table(num_ranks: int, num_calls: int, tokens: int, seed: int = 0) -> RoutingTable:
    """Two layers with experts chosen by a Zipf law; 16 experts, 3 a token."""
    choose = random.Random(seed)
    weights = [1 / (1 + expert) for expert in range(16)]

    def route() -> tuple[int, ...]:
        found: list[int] = []
        while len(found) < 3:
            expert = choose.choices(range(16), weights)[0]
            found += [expert] * (expert not in found)
        return tuple(found)

    calls = []
    for number in range(num_calls):
        for rank in range(num_ranks):
            count = tokens - rank
            experts = {layer: tuple(route() for _ in range(count)) for layer in (0, 3)}
            calls.append(RoutedCall(number, "prefill", rank, tuple((rank, i) for i in range(count)), experts))
    return RoutingTable(16, 3, num_ranks, tuple(calls))


def test_depth_is_the_most_rows_of_an_expert_in_one_call():
    table = skewed_table(2, 3, 40)
    for found in layer_depths(table, "prefill", 16):
        per_call = [Counter() for _ in range(3)]
        for call in table.calls:
            per_call[call.call].update(expert for chosen in call.experts[found.layer] for expert in chosen)
        assert found.rows == tuple(max(counts[expert] for counts in per_call) for expert in range(16))
        most = max(max(counts.values()) for counts in per_call)
        assert found.least_depth - 16 < most <= found.least_depth and found.least_depth % 16 == 0
        assert found.uniform == pytest.approx((40 + 39) * 3 / 16)
        assert found.skew == pytest.approx(max(max(counts.values()) / ((40 + 39) * 3 / 16) for counts in per_call))


@pytest.mark.parametrize(
    "preset, deploy, ep, depth", [("flash", "prefill", 8, 96), ("flash", "decode", 8, 16), ("pro", "prefill", 8, 64)]
)
def test_the_formula_gives_the_figures_of_the_reference(preset, deploy, ep, depth):
    """Source: the model's design page (16 and 96 for flash at ep8); 128 * 6 * 4 / 48 = 64 for pro."""
    assert formula_depth(load_config([preset], deploy=deploy, ep=ep).values) == depth


def test_a_phase_names_the_bound_and_the_depth_over_all_layers():
    config = load_config(["tiny"], deploy="prefill", ep=2)
    found = phase_depth(skewed_table(2, 3, 40), "prefill", config, {"ragged": 1})
    assert found.least_depth == max(layer.least_depth for layer in found.layers)
    assert (found.bound_depth, found.tokens, found.ranks, found.num_calls) == (256, 128, 2, 3)


def test_a_table_of_another_model_is_refused():
    config = load_config(["tiny"], ["n_routed_experts=32"], ep=2)
    with pytest.raises(RinggraphError, match=r"^f: 'n_routed_experts' is 16, but the configuration has 32$"):
        check_fits(skewed_table(2, 1, 4), config.values, "f")
    with pytest.raises(RinggraphError, match=r"^f: no call is recorded$"):
        check_fits(RoutingTable(16, 3, 1), load_config(["tiny"]).values, "f")


def test_calls_of_more_tokens_than_the_configuration_takes_are_refused():
    config = load_config(["tiny"], ["prefill.seq=32"], deploy="prefill", ep=2)
    expected = r"^call 0 of rank 0 has 40 tokens, but a prefill call of this configuration takes 32\nhint: "
    with pytest.raises(RinggraphError, match=expected):
        phase_depth(skewed_table(2, 3, 40), "prefill", config, {})


def test_the_plot_is_a_picture(tmp_path):
    config = load_config(["tiny"], deploy="prefill", ep=2)
    phase = phase_depth(skewed_table(2, 3, 40), "prefill", config, {})
    plot([phase], tmp_path / "depth.png")
    assert (tmp_path / "depth.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RinggraphError, match="xyz"):
        plot([phase], tmp_path / "depth.xyz")


# --- the command ----------------------------------------------------------------------------------------------------


def ringgraph(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code in (0, None)


def test_the_example_of_the_docs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    text = (DOCS / "expert-parallel.md").read_text()
    (example,) = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (prompts,) = re.findall(r"^```json\n(\[\[.*?)^```", text, re.MULTILINE | re.DOTALL)
    Path("prompts.json").write_text(prompts)
    for command in example.split("$ ringgraph ")[1:]:
        line, _, expected = command.partition("\n")
        ringgraph(*shlex.split(line))
        assert [found.rstrip() for found in capsys.readouterr().out.rstrip().splitlines()] == expected.splitlines()


def test_recorded_routing_gives_the_same_depths_as_the_prompts(tmp_path, capsys):
    folder = init_checkpoint(load_config(["tiny"]), tmp_path / "model", seed=1)
    (tmp_path / "prompts.json").write_text(json.dumps([[5] * 40, [5] * 40, [7, 8, 9], [1, 2]]))
    given = ("--checkpoint", folder, "--prompts", tmp_path / "prompts.json", "--max-new-tokens", 3)
    ringgraph("generate", *given, "--record-routing", tmp_path / "routing.jsonl")
    capsys.readouterr()
    ep = 2  # recorded on one rank
    ringgraph("recv-depth", *given, "--ep", ep, "--json")
    from_prompts = json.loads(capsys.readouterr().out)
    ringgraph("recv-depth", "--routing", tmp_path / "routing.jsonl", "--config", folder / "config.json", "--ep", ep, "--json")
    assert json.loads(capsys.readouterr().out) == from_prompts
    prefill, decode = from_prompts["phases"]
    assert (prefill["phase"], prefill["ranks"], prefill["tokens"]) == ("prefill", ep, 128)
    assert (decode["phase"], decode["ranks"], decode["tokens"]) == ("decode", ep, 8)
    assert [max(layer["rows"]) for layer in prefill["layers"][:2]] == [40 * ep] * 2  # one token over and over: hashed alike
    row_bytes = 64 * 4 * 2 + 12  # x and y in f32, and three notes
    assert prefill["bytes"]["ragged"] == 128 * ep * 3 * row_bytes
    assert prefill["bytes"]["padded"] == 16 // ep * prefill["least_depth"] * row_bytes
