"""`ringgraph recv-depth`: how deep a padded receive buffer must be, from real routing, without a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.cli import options
from runner.cli.shared import console, print_json, table, warned
from runner.driver.driver import program_of, registry, resolve, schedule_of, set_threads

if TYPE_CHECKING:
    from runner.config.config import Config
    from runner.models.deepseek_v4.receive_depth import PhaseDepth
    from runner.models.deepseek_v4.recorded_routing import RoutingTable

DEPLOYMENTS = {"prefill": "prefill", "decode": "decode"}
"""The deployment of each phase."""


def register(app: typer.Typer) -> None:
    app.command("recv-depth")(recv_depth)


def recv_depth(
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", metavar="DIR", help="A model to route prompts with.")] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="A JSON list of prompts, for --checkpoint.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=0, metavar="N", help="Tokens to make per prompt.")] = 16,
    routing: Annotated[
        Path | None, typer.Option("--routing", metavar="FILE", help="Routing that 'ringgraph generate --record-routing' wrote.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw rows of every expert (.svg, .png, .pdf).")
    ] = None,
    config: options.Configs = [],  # noqa: B006
    sets: options.Sets = [],  # noqa: B006
    ep: options.Ep = None,
    as_json: options.Json = False,
) -> None:
    """Work out the receive depth that routing needs: rows per expert and layer, skew, the least depth, bytes of each layout."""
    from runner.models.deepseek_v4.receive_depth import check_fits
    from runner.models.deepseek_v4.receive_depth import plot as draw
    from runner.models.deepseek_v4.recorded_routing import read_routing

    if (routing is None) == (checkpoint is None or prompts is None):
        raise typer.BadParameter("give either --checkpoint with --prompts, or --routing")
    layers = [str(Path(checkpoint) / "config.json")] if checkpoint is not None else []
    wanted = resolve([*layers, *config], sets, None, ep)
    if routing is not None:
        recorded = read_routing(routing)
        wanted = wanted if ep is not None else wanted.with_(ep=recorded.num_ranks)
    else:
        assert checkpoint is not None and prompts is not None
        recorded = _record(resolve([*layers, *config], sets, None, 1), Path(checkpoint), prompts, max_new_tokens)
    check_fits(recorded, wanted.values, str(routing or prompts))
    configs = {phase: wanted.with_(deploy=deploy) for phase, deploy in DEPLOYMENTS.items()}
    if recorded.num_ranks != wanted["ep"]:
        recorded = recorded.spread(wanted["ep"], configs["prefill"]["T"], configs["decode"]["B"])
    found = [_depth(recorded, phase, configs[phase]) for phase in configs if recorded.rows(phase)]
    if plot is not None:
        draw(found, plot)
    if as_json:
        print_json({"phases": [phase.as_json() for phase in found]})
    else:
        for phase in found:
            _print(phase)


def _depth(recorded: RoutingTable, phase: str, config: Config) -> PhaseDepth:
    """The figures of a phase, the bytes of a padded buffer being those at the least depth that passes."""
    from dataclasses import replace

    from runner.models.deepseek_v4.receive_depth import phase_depth

    found = phase_depth(recorded, phase, config, {})
    layouts = {
        "padded": config.with_(recv_layout="padded", recv_max=found.least_depth),
        "padded_formula": config.with_(recv_layout="padded", recv_max=found.formula_depth),
        "ragged": config.with_(recv_layout="ragged"),
    }
    return replace(found, bytes={name: _receive_bytes(layout) for name, layout in layouts.items()})


def _receive_bytes(config: Config) -> int:
    from runner.models.deepseek_v4.receive_depth import receive_bytes

    return receive_bytes(program_of("moe", config))


def _record(config: Config, checkpoint: Path, prompts: Path, max_new_tokens: int) -> RoutingTable:
    """Runs the prompts on one rank and keeps which experts every token chose."""
    from runner.cli.generate import fitting, recorder_of
    from runner.execution.comm import LocalComm
    from runner.serving.generate import generate
    from runner.serving.prompts import read_prompts
    from runner.serving.session import Placement, open_session

    given = tuple(read_prompts(prompts, checkpoint))
    config = fitting(config, given, max_new_tokens, "decode")
    set_threads(None, config)
    session = open_session(config, checkpoint, registry(), Placement(lambda program: warned(schedule_of(program, "annotated"))))
    recorder: Any = recorder_of(session, LocalComm(), config)
    generate(recorder, given, max_new_tokens)
    recorded = recorder.table()
    assert recorded is not None, "rank 0 has the table"
    return recorded


def _print(phase: PhaseDepth) -> None:
    from runner.report.dot import human_bytes

    tokens = f"{phase.num_calls} calls of up to {phase.tokens} tokens on each of {phase.ranks} rank{'s' * (phase.ranks > 1)}"
    out = table("layer>", "most rows>", "uniform>", "skew>", "least depth>", title=f"{phase.phase}: {tokens}")
    for layer in phase.layers:
        out.add_row(
            str(layer.layer), f"{max(layer.rows):,}", f"{layer.uniform:,.1f}", f"{layer.skew:.2f}", f"{layer.least_depth:,}"
        )
    console().print(out)
    print(f"least depth that passes: {phase.least_depth:,} (--set recv_max={phase.least_depth})")
    verdict = "passes" if phase.formula_depth >= phase.least_depth else "is too shallow"
    print(f"the formula gives {phase.formula_depth:,}, which {verdict}; no routing needs more than {phase.bound_depth:,}")
    sizes = {name: human_bytes(size) for name, size in phase.bytes.items()}
    print(
        f"receive buffers of a layer and rank: padded {sizes['padded']} (by the formula {sizes['padded_formula']}), "
        f"ragged {sizes['ragged']}\n"
    )
