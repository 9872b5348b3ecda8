"""DeepSeek-V4: everything that is of this family of models and of no other, behind `FAMILY`."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.base.errors import Diagnostic
from runner.models.deepseek_v4 import planned_routing, requests
from runner.models.deepseek_v4.tensors import LAYOUT
from runner.models.protocols import (
    C,
    Configuration,
    DepthReport,
    ModelFamily,
    Normalised,
    Recording,
    Serving,
    Settings,
    TripCounts,
    Values,
    Vocabulary,
)

if TYPE_CHECKING:
    from runner.language.given import Given
    from runner.models.deepseek_v4.recorded_routing import RoutingRecorder, RoutingTable
    from runner.program.program import Program

SCHEMA = "config.schema.json"
"""The one list of fields, which editors read too."""


@cache
def _fields() -> Mapping[str, Mapping[str, Any]]:
    schema = json.loads(files("graphs.schema").joinpath(SCHEMA).read_text(encoding="utf-8"))
    return {name: rule for name, rule in schema["properties"].items() if not rule.get("x-section")}


class Experts:
    """See `RoutedExperts`."""

    def decides(self, names: Collection[str], ops: Collection[str | None], /) -> bool:
        return planned_routing.counts_rows(names, ops)

    def recorder(self, serving: Serving[Any], programs: Mapping[str, Program], rank: int, num_ranks: int) -> RoutingRecorder:
        from runner.models.deepseek_v4.recorded_routing import RoutingRecorder

        config = serving.config
        return RoutingRecorder(programs, config["E_ALL"], config["TOPK"], serving.seq, rank, num_ranks)

    def read(self, path: Path) -> RoutingTable:
        from runner.models.deepseek_v4.recorded_routing import read_routing

        return read_routing(path)

    def depths(
        self, recording: Recording, config: Configuration, where: str, expanded: Callable[[str, Any], Program]
    ) -> DepthReport:
        from runner.models.deepseek_v4.receive_depth import report

        return report(recording, config, where, expanded)


class DeepseekV4(ModelFamily):
    """See `ModelFamily`."""

    name = "deepseek_v4"
    model_types = ("deepseek_v4",)
    base_layer = "deepseek_v4"
    layout = LAYOUT

    def fields(self) -> Mapping[str, Mapping[str, Any]]:
        return _fields()

    def normalise(self, given: Values, *, whole: bool) -> Normalised:
        from runner.models.deepseek_v4 import hf_config, hf_file

        return hf_file.read_file(given) if whole else hf_config.normalise(given)

    def impossible(self, values: Values, given: Mapping[str, Given], deploy: str) -> list[Diagnostic]:
        from runner.models.deepseek_v4.constraints import impossible

        return impossible(values, given, deploy)

    # --- serving ---

    routed_experts = Experts()

    def trip_counts(self, text: str, settings: Settings) -> TripCounts | None:
        return planned_routing.trip_counts(text, settings)

    def serving(self, config: C, decode: str | None = None) -> Serving[C]:
        return requests.serving(config, decode)

    def fitting(self, config: C, lengths: Sequence[int], max_new_tokens: int, decode: str | None = None) -> C:
        return requests.fitting(config, lengths, max_new_tokens, decode)

    def vocabulary(self, config: Configuration) -> Vocabulary:
        return requests.vocabulary(config)

    def is_narrow(self, settings: Settings) -> bool:
        return requests.is_narrow(settings)


FAMILY: ModelFamily = DeepseekV4()
