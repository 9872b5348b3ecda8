"""Recorded routing: what is written is read, what is wrong is named with its line, and tokens are spread over ranks."""

import json
import random

import pytest

from runner.base.errors import RinggraphError
from runner.models.deepseek_v4.recorded_routing import RoutedCall, RoutingTable, read_routing, write_routing


def table_of(num_prompts: int, length: int, seed: int = 0) -> RoutingTable:
    """One rank; every prompt one prefill call, two layers; then three decode calls with all prompts."""
    choose = random.Random(seed)

    def call(number, phase, tokens):
        experts = {layer: tuple(tuple(choose.sample(range(8), 2)) for _ in tokens) for layer in (0, 5)}
        return RoutedCall(number, phase, 0, tuple(tokens), experts)

    calls = [call(p, "prefill", [(p, i) for i in range(length)]) for p in range(num_prompts)]
    calls += [call(num_prompts + s, "decode", [(p, length + s) for p in range(num_prompts)]) for s in range(3)]
    return RoutingTable(8, 2, 1, tuple(calls))


def test_a_table_is_read_as_written(tmp_path):
    table = table_of(3, 10)
    write_routing(tmp_path / "routing.jsonl", table)
    assert read_routing(tmp_path / "routing.jsonl") == table
    assert table.layers == (0, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["routing.jsonl"]


def test_a_table_that_was_cut_is_refused_wherever_it_was(tmp_path):
    write_routing(tmp_path / "routing.jsonl", table_of(2, 4))
    data = (tmp_path / "routing.jsonl").read_bytes()
    for at in range(len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:at])
        with pytest.raises(RinggraphError):
            read_routing(tmp_path / "cut")


def test_rows_count_the_routes_of_all_ranks():
    calls = (
        RoutedCall(0, "prefill", 0, ((0, 0), (0, 1)), {0: ((1, 2), (1, 0))}),
        RoutedCall(0, "prefill", 1, ((1, 0),), {0: ((3, 1),)}),
        RoutedCall(1, "decode", 1, ((1, 1),), {0: ((3, 0),)}),
    )
    table = RoutingTable(4, 2, 2, calls)
    assert table.rows("prefill") == [{0: [1, 3, 1, 1]}]
    assert table.rows("decode") == [{0: [1, 0, 0, 1]}]


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_spreading_keeps_every_route_and_fills_ranks_in_turn(num_ranks):
    table = table_of(5, 10)
    spread = table.spread(num_ranks, prefill_tokens=4, batch=2)
    routes = lambda t: sorted(  # noqa: E731
        (call.phase, token, layer, chosen[at])
        for call in t.calls
        for at, token in enumerate(call.tokens)
        for layer, chosen in call.experts.items()
    )
    assert routes(spread) == routes(table)
    for call in spread.calls:
        assert {prompt % num_ranks for prompt, _ in call.tokens} == {call.rank}
        assert len(call.tokens) <= (4 if call.phase == "prefill" else 2)
    first = [call.tokens for call in spread.calls if call.call == 0]
    assert first == [tuple((rank, i) for i in range(4)) for rank in range(num_ranks)]


HEADER = {"format": "ringgraph-routing", "version": 1, "n_routed_experts": 4, "num_experts_per_tok": 2, "ranks": 1}
CALL = {"call": 0, "phase": "prefill", "rank": 0, "tokens": [[0, 0]], "experts": {"0": [[1, 2]]}}


@pytest.mark.parametrize(
    "lines, message",
    [
        ([{"format": "x"}], ":1: not a routing table: expected a header with format 'ringgraph-routing', version 1"),
        ([HEADER | {"ranks": 0}], ":1: 'ranks' is 0, expected a number above 0"),
        ([HEADER, "{"], ":2: not JSON: Expecting property name enclosed in double quotes"),
        ([HEADER, CALL | {"phase": "fill"}], ":2: expected 'call' and 'rank' as numbers and 'phase' as one of prefill, decode"),
        ([HEADER, CALL, CALL | {"rank": 1}], ":3: rank 1, expected less than 1, the ranks of the header"),
        ([HEADER, CALL | {"tokens": [[0]]}], ":2: expected 'tokens' as a list of [prompt, position]"),
        (
            [HEADER, CALL | {"tokens": [], "experts": {"0": []}}],
            ":2: expected 'tokens' as a list of [prompt, position], with one",
        ),
        ([HEADER, CALL | {"experts": {"\u00b2": [[1, 2]]}}], ":2: expected 'experts' as lists by layer number"),
        ([HEADER, CALL | {"experts": {}}], ":2: expected 'experts' as lists by layer number"),
        ([HEADER, CALL, CALL], ":3: call 0 of rank 0 is in line 2 already"),
        (
            [HEADER | {"ranks": 2}, CALL, CALL | {"rank": 1, "phase": "decode"}],
            ":3: call 0 is 'decode' here and 'prefill' on another rank",
        ),
        ([HEADER, CALL, CALL | {"call": 1, "experts": {"3": [[1, 2]]}}], ":3: layers 3, expected those of the first call, 0"),
        ([HEADER | {"lines": 2}, CALL], ": has 1 lines behind its header, which says 2: was it cut?"),
        ([HEADER, CALL | {"experts": {"0": []}}], ":2: layer 0: expected one list of expert ids for each of the 1 tokens"),
        ([HEADER, CALL | {"experts": {"0": [[1, 1]]}}], ":2: layer 0: token 0 has [1, 1], expected 2 different expert ids"),
        ([HEADER, CALL | {"experts": {"0": [[1, 4]]}}], ":2: layer 0: token 0 chose expert 4, expected less than 4"),
    ],
)
def test_a_bad_line_is_named(tmp_path, lines, message):
    path = tmp_path / "routing.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    with pytest.raises(RinggraphError) as error:
        read_routing(path)
    assert str(error.value).startswith(f"{path}{message}")
