"""Where planning takes trip counts from; the commands' tests have the rest."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from runner.base.errors import ConfigError
from runner.models.deepseek_v4.planned_routing import trip_counts
from runner.models.deepseek_v4.recorded_routing import RoutedCall, RoutingTable, write_routing

VALUES = {"B": 1, "S": 8, "T": 8, "EP": 2, "TOPK": 2, "E": 4, "E_ALL": 8, "ROW_TILE": 4}


@dataclass
class Settings:
    values: dict[str, Any]
    dtypes: dict[str, str] = field(default_factory=dict)


def _trips(source, num_stages, num_experts=4, tile=1, bound=99):
    def trips(expert):
        element = ("count", (expert, 0))
        return source("path", (element,), bound, lambda rows: -(-rows[element] // tile))

    return [[trips(expert) for expert in range(num_experts)] for _ in range(num_stages)]


def test_bound_leaves_loops_alone():
    assert trip_counts("bound", Settings(VALUES)) is None


def test_uniform_shares_all_routes_equally():
    """8 tokens of 2 ranks, 2 experts each, over 8 experts: 4 rows, one tile of 4."""
    assert _trips(trip_counts("uniform", Settings(VALUES)), 2) == [[4] * 4] * 2
    assert _trips(trip_counts("uniform", Settings(VALUES)), 2, tile=4) == [[1] * 4] * 2


def test_random_routing_draws_distinct_experts_and_every_stage_anew():
    values = VALUES | {"E": 8, "ROW_TILE": 1}
    stages = _trips(trip_counts("random:3", Settings(values)), 50, 8)
    assert all(sum(rows) == 8 * 2 * 2 and max(rows) <= 16 for rows in stages)
    assert len({tuple(rows) for rows in stages}) > 40
    assert stages == _trips(trip_counts("random:3", Settings(values)), 50, 8)
    assert stages != _trips(trip_counts("random:4", Settings(values)), 50, 8)
    mean = Counter(expert for rows in stages for expert, n in enumerate(rows) for _ in range(n))
    assert all(150 < mean[expert] < 250 for expert in range(8))  # 200 expected


def test_loops_that_read_nothing_known_keep_their_bound():
    source = trip_counts("uniform", Settings(VALUES))
    assert source("path", (("count", ()),), 7, lambda rows: 1) is None
    assert source("path", (), 7, lambda rows: 1) is None


def test_a_recording_gives_the_most_rows_of_any_call(tmp_path):
    """Rows of both ranks add up within a call; the larger of two calls counts, expert by expert."""
    path = tmp_path / "routing.jsonl"
    calls = (
        RoutedCall(0, "prefill", 0, ((0, 0), (0, 1)), {0: ((0, 1), (0, 5))}),
        RoutedCall(0, "prefill", 1, ((1, 0),), {0: ((0, 2),)}),
        RoutedCall(1, "prefill", 0, ((0, 2),), {0: ((1, 2),)}),
        RoutedCall(2, "decode", 0, ((0, 3),), {0: ((3, 4),)}),
    )
    write_routing(path, RoutingTable(8, 2, 2, calls))
    values = VALUES | {"ROW_TILE": 1}
    assert _trips(trip_counts(str(path), Settings(values)), 1) == [[3, 1, 1, 0]]
    assert _trips(trip_counts(str(path), Settings(values | {"B": 8, "S": 1})), 1) == [[0, 0, 0, 1]]
    with pytest.raises(ConfigError, match="recorded with 8 experts on 2 ranks, the configuration has 16 on 2"):
        trip_counts(str(path), Settings(values | {"E_ALL": 16}))


def test_more_rows_than_fit_are_refused_with_the_depth_that_is_needed():
    source = trip_counts("uniform", Settings(VALUES | {"T": 80}))
    with pytest.raises(ConfigError, match="stage 0 sends 40 rows to expert 0 of rank 0, but it can receive 8") as error:
        source("moe.e0.t", (("count", (0, 0)),), 2, lambda rows: -(-rows["count", (0, 0)] // 4))
    assert "hint: --set recv_max=40" in str(error.value)
