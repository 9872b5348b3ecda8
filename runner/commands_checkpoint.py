"""`ringgraph checkpoint`: random checkpoints, what one holds, conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner import options
from runner.commands_common import resolve

checkpoint_app = typer.Typer(help="Write, inspect and convert checkpoints.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(checkpoint_app, name="checkpoint")


@checkpoint_app.command("init")
def init(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that does not exist yet.")],
    seed: Annotated[int, typer.Option(help="Every tensor depends on the seed and its name alone.")] = 0,
    flavour: Annotated[
        str | None, typer.Option("--flavour", help="f32, bf16, w8a8, fp8, fp8-e8m0 or fp4; the configuration's dtype without.")
    ] = None,
    config: options.Configs = [],  # noqa: B006
    sets: options.Sets = [],  # noqa: B006
) -> None:
    """Write a random checkpoint in the real layout: shards, index, config.json."""
    from runner.checkpoint import Checkpoint
    from runner.checkpoint_init import init_checkpoint
    from runner.dot import human_bytes
    from runner.progress_bar import progress_bar

    resolved = resolve(config, sets)
    with progress_bar("writing") as progress:
        folder = init_checkpoint(resolved, out, seed=seed, flavour=flavour, progress=progress)
    made = Checkpoint.open(folder)
    print(f"{folder}: {resolved.name}, {len(made.tensors)} tensors, {human_bytes(made.size_bytes)}, {len(made.shards)} shards")
