"""`ringgraph recv-depth`: how deep a padded receive buffer must be, from real routing, without a device."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli import options
from runner.cli.generate import MaxNewTokens
from runner.cli.shared import console, placement, print_json, table

if TYPE_CHECKING:
    from runner.driver.driver import Setup
    from runner.models.protocols import Recording, Section

Model = Annotated[str | None, typer.Option("--checkpoint", metavar="DIR", help="A model to route prompts with.")]
Prompts = Annotated[Path | None, typer.Option("--prompts", metavar="FILE", help="A JSON list of prompts, for --checkpoint.")]
Routing = Annotated[
    Path | None, typer.Option("--routing", metavar="FILE", help="Routing that 'ringgraph generate --record-routing' wrote.")
]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw rows of every expert (.svg, .png, .pdf).")]


def register(app: typer.Typer) -> None:
    app.command("recv-depth")(receive_depth)


def receive_depth(
    checkpoint: Model = None,
    prompts: Prompts = None,
    max_new_tokens: MaxNewTokens = 16,
    routing: Routing = None,
    plot: Plot = None,
    config: options.Configs = [],  # noqa: B006
    sets: options.Sets = [],  # noqa: B006
    ep: options.Ep = None,
    ops: options.OpFiles = [],  # noqa: B006
    as_json: options.Json = False,
) -> None:
    """Work out the receive depth that routing needs: rows per expert and layer, skew, the least depth, bytes of each layout."""
    from runner.driver.driver import Setup, program_of
    from runner.driver.outputs import check_outputs
    from runner.driver.serve import experts_of

    if (routing is None) == (checkpoint is None or prompts is None):
        raise typer.BadParameter("give either --checkpoint with --prompts, or --routing")
    check_outputs([plot])
    layers = [*([str(Path(checkpoint) / "config.json")] if checkpoint is not None else []), *config]
    setup = Setup(layers, sets, None, ep, ops)
    wanted = setup.config()
    experts = experts_of(wanted, "recv-depth")
    if routing is not None:
        recording = experts.read(routing)
        wanted = wanted if ep is not None else wanted.with_(ep=recording.num_ranks)
    else:
        assert checkpoint is not None and prompts is not None
        recording = _record(replace(setup, ep=1), Path(checkpoint), prompts, max_new_tokens)
    report = experts.depths(recording, wanted, str(routing or prompts), partial(program_of, ops=setup.registry))
    if as_json:
        print_json(report.as_json())
    else:
        for section in report.sections():
            _print(section)
    if plot is not None:
        report.plot(plot)


def _record(setup: Setup, checkpoint: Path, prompts: Path, max_new_tokens: int) -> Recording:
    """Runs the prompts on one rank and keeps which experts every token chose."""
    from runner.driver.driver import set_threads
    from runner.driver.serve import Request, prompts_of, record_routing

    config = setup.config()
    set_threads(None, config)
    request = Request(checkpoint, prompts_of(checkpoint, (), prompts, ()), max_new_tokens)
    return record_routing(config, request, setup.registry, placement("annotated", (None, None, None)))


def _print(section: Section) -> None:
    out = table(*section.columns, title=section.title)
    for row in section.rows:
        out.add_row(*row)
    console().print(out)
    print(*section.lines, sep="\n", end="\n\n")
