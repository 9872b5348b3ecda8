"""How deep a padded receive buffer must be for recorded routing, and what each receive layout takes; no device needed.

A padded buffer has one lane an expert, `recv_max` rows deep. A call fits when no expert gets more rows from all ranks together,
so the least depth is the most rows of any expert in any call. A ragged buffer packs all experts and is sized by what cannot be
exceeded, `T * ep * min(topk, experts of a rank)` rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from runner.base.errors import RinggraphError
from runner.base.files import whole_file
from runner.base.units import human_bytes
from runner.models.deepseek_v4.recorded_routing import RoutingTable
from runner.models.deepseek_v4.requests import DEPLOYMENTS
from runner.models.protocols import Configuration, Recording, Section, Settings
from runner.program.program import Program

STAGE = "moe"
"""The graph of one mixture-of-experts stage."""

_BUFFERS = {"dispatch": ("recv_x", "recv_scale", "recv_w", "recv_r_route"), "combine_push": ("recv_y",)}
"""The operands of each op that are receive buffers."""


@dataclass(frozen=True, slots=True)
class LayerDepth:
    """One layer in all calls of a phase.

    rows         for every expert, the most rows that it got in one call, from all ranks together
    uniform      rows of an expert in the fullest call, were all experts chosen equally often
    skew         the most rows of an expert over the mean of all experts in the same call, in the call where that is largest
    least_depth  the least `recv_max`, in whole row tiles, with which every call passes
    """

    layer: int
    rows: tuple[int, ...]
    uniform: float
    skew: float
    least_depth: int


@dataclass(frozen=True, slots=True)
class PhaseDepth:
    """All layers of a phase.

    `bytes` are of one layer's receive buffers on one rank, by layout; no expert can get more than `bound_depth` rows.
    """

    phase: str
    num_calls: int
    tokens: int
    ranks: int
    layers: tuple[LayerDepth, ...]
    least_depth: int
    formula_depth: int
    bound_depth: int
    bytes: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "bytes": dict(self.bytes)}

    def section(self) -> Section:
        """A row a layer, the depths and the bytes of each layout."""
        tokens = f"{self.num_calls} calls of up to {self.tokens} tokens on each of {self.ranks} rank{'s' * (self.ranks > 1)}"
        rows = tuple(
            (str(each.layer), f"{max(each.rows):,}", f"{each.uniform:,.1f}", f"{each.skew:.2f}", f"{each.least_depth:,}")
            for each in self.layers
        )
        verdict = "passes" if self.formula_depth >= self.least_depth else "is too shallow"
        sizes = {name: human_bytes(size) for name, size in self.bytes.items()}
        lines = (
            f"least depth that passes: {self.least_depth:,} (--set recv_max={self.least_depth})",
            f"the formula gives {self.formula_depth:,}, which {verdict}; no routing needs more than {self.bound_depth:,}",
            f"receive buffers of a layer and rank: padded {sizes['padded']} (by the formula {sizes['padded_formula']}), "
            f"ragged {sizes['ragged']}",
        )
        return Section(f"{self.phase}: {tokens}", ("layer>", "most rows>", "uniform>", "skew>", "least depth>"), rows, lines)


@dataclass(frozen=True, slots=True)
class ReceiveDepths:
    """See `runner.models.protocols.DepthReport`: the phases that were recorded."""

    phases: tuple[PhaseDepth, ...]

    def as_json(self) -> dict[str, Any]:
        return {"phases": [phase.as_json() for phase in self.phases]}

    def sections(self) -> list[Section]:
        return [phase.section() for phase in self.phases]

    def plot(self, path: Path) -> None:
        plot(self.phases, path)


def report(recording: Recording, config: Configuration, where: str, expanded: Callable[[str, Any], Program]) -> ReceiveDepths:
    """See `RoutedExperts.depths`. The tokens are put together as the ranks of `config` would meet them."""
    assert isinstance(recording, RoutingTable), "a family is given what it has read or recorded"
    check_fits(recording, config.values, where)
    configs = {phase: config.with_(deploy=deploy) for phase, deploy in DEPLOYMENTS.items()}
    if recording.num_ranks != config["ep"]:
        recording = recording.spread(config["ep"], configs["prefill"]["T"], configs["decode"]["B"])
    recorded = [phase for phase in configs if recording.rows(phase)]
    return ReceiveDepths(tuple(_with_bytes(phase_depth(recording, p, configs[p], {}), configs[p], expanded) for p in recorded))


def _with_bytes(found: PhaseDepth, config: Configuration, expanded: Callable[[str, Any], Program]) -> PhaseDepth:
    """With the bytes of each layout, of a padded buffer at the least depth that passes and at the formula's."""
    layouts = {
        "padded": ("recv_layout=padded", f"recv_max={found.least_depth}"),
        "padded_formula": ("recv_layout=padded", f"recv_max={found.formula_depth}"),
        "ragged": ("recv_layout=ragged",),
    }
    made = {name: receive_bytes(expanded(STAGE, config.with_(sets=sets))) for name, sets in layouts.items()}
    return replace(found, bytes=made)


def formula_depth(values: Mapping[str, Any]) -> int:
    """Rows an expert by the reference's formula, `max(16, T * topk * 4 / experts of a rank)`, in whole row tiles.

    Source: pypto-lib `moe`.
    """
    tile = values["ROW_TILE"]
    return max(tile, _tiles(-(-values["T"] * values["TOPK"] * 4 // values["E"]), tile))


def layer_depths(table: RoutingTable, phase: str, tile: int) -> tuple[LayerDepth, ...]:
    """Every layer of a phase of `table`, whose calls are of one configuration."""
    calls = table.rows(phase)
    found = []
    for layer in sorted({layer for call in calls for layer in call}):
        counts = [call[layer] for call in calls if layer in call]
        rows = tuple(max(column) for column in zip(*counts, strict=True))
        skew = max((max(c) * len(c) / sum(c) for c in counts if sum(c)), default=1.0)
        uniform = max(sum(c) / len(c) for c in counts)
        found.append(LayerDepth(layer, rows, uniform, skew, max(tile, _tiles(max(rows), tile))))
    return tuple(found)


def phase_depth(table: RoutingTable, phase: str, config: Settings, layout_bytes: Mapping[str, int]) -> PhaseDepth:
    """The figures of one phase under `config`, which has the phase's tokens a call and the table's number of ranks.

    Raises RinggraphError where a recorded call has more tokens than that.
    """
    values = config.values
    fullest = max((call for call in table.calls if call.phase == phase), key=lambda call: len(call.tokens))
    if len(fullest.tokens) > values["T"]:
        raise RinggraphError(
            f"call {fullest.call} of rank {fullest.rank} has {len(fullest.tokens)} tokens, "
            f"but a {phase} call of this configuration takes {values['T']}",
            hint="give the configuration that it was recorded with, as in --set prefill.seq=256 or --set decode.batch=16",
        )
    layers = layer_depths(table, phase, values["ROW_TILE"])
    return PhaseDepth(
        phase,
        len(table.rows(phase)),
        values["T"],
        values["EP"],
        layers,
        max((layer.least_depth for layer in layers), default=values["ROW_TILE"]),
        formula_depth(values),
        _tiles(values["T"] * values["EP"], values["ROW_TILE"]),
        layout_bytes,
    )


def receive_bytes(program: Program) -> int:
    """Bytes of the receive buffers of a program's first mixture-of-experts stage."""
    found: dict[int, int] = {}
    for op, operands in _BUFFERS.items():
        task = next((task for task in program.tasks if task.op == op), None)
        if task is not None:
            for name in operands:
                tensor = task.operands[name].tensor
                found[tensor] = program.tensors[tensor].spec.size_bytes
    return sum(found.values())


def check_fits(table: RoutingTable, values: Mapping[str, Any], where: str) -> None:
    """Raises RinggraphError unless a table was recorded on a model like the configuration's."""
    for name, recorded, wanted in (
        ("n_routed_experts", table.num_experts, values["E_ALL"]),
        ("num_experts_per_tok", table.topk, values["TOPK"]),
    ):
        if recorded != wanted:
            raise RinggraphError(f"{where}: '{name}' is {recorded}, but the configuration has {wanted}")
    if not table.calls:
        raise RinggraphError(f"{where}: no call is recorded")


def _tiles(rows: int, tile: int) -> int:
    return -(-rows // tile) * tile


def plot(phases: Sequence[PhaseDepth], path: Path) -> None:
    """Rows of every expert by layer, against the depths; raises RinggraphError without matplotlib or for an unknown format."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise RinggraphError("--plot needs the package 'matplotlib'", hint="pip install 'ringgraph[plot]'") from None
    figure, axes = pyplot.subplots(len(phases), 1, figsize=(9, 3.6 * len(phases)), squeeze=False, layout="constrained")
    for axis, phase in zip(axes[:, 0], phases, strict=True):
        for layer in phase.layers:
            axis.plot([layer.layer] * len(layer.rows), layer.rows, ".", color="tab:blue", markersize=3, alpha=0.5)
        axis.plot([], [], ".", color="tab:blue", label="one expert's most rows in a call")
        axis.plot([x.layer for x in phase.layers], [x.uniform for x in phase.layers], color="0.6", label="uniform")
        axis.axhline(phase.least_depth, color="tab:green", label=f"least depth that passes: {phase.least_depth}")
        axis.axhline(phase.formula_depth, color="tab:red", ls="--", label=f"formula: {phase.formula_depth}")
        axis.axhline(phase.bound_depth, color="0.3", ls=":", label=f"never more than: {phase.bound_depth}")
        axis.set(xlabel="layer", ylabel="rows", ylim=(0, None))
        axis.set_title(f"{phase.phase}: {phase.num_calls} calls of {phase.tokens} tokens on each of {phase.ranks} ranks")
        axis.legend(fontsize="small")
    try:
        with whole_file(path) as partial:
            figure.savefig(partial)
    except ValueError as error:
        raise RinggraphError(f"'{path}': {error}") from None
    finally:
        pyplot.close(figure)
