"""`ringgraph checkpoint`: random checkpoints, what one holds, conversion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli import options
from runner.cli.shared import console, print_json, table
from runner.driver import completion
from runner.driver.driver import resolve

if TYPE_CHECKING:
    from runner.config.config import Config

checkpoint_app = typer.Typer(help="Write, inspect and convert checkpoints.", no_args_is_help=True)


FLAVOURS = completion.one_of("f32", "bf16", "w8a8", "fp8", "fp8-e8m0", "fp4")
To = Annotated[
    str, typer.Option("--to", metavar="FLAVOUR", autocompletion=FLAVOURS, help="f32, bf16, w8a8, fp8, fp8-e8m0 or fp4.")
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        autocompletion=completion.one_of("f32", "bf16"),
        help="Of weights that the flavour leaves plain: f32 or bf16.",
    ),
]


def register(app: typer.Typer) -> None:
    app.add_typer(checkpoint_app, name="checkpoint")


@checkpoint_app.command("init")
def init(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that does not exist yet.")],
    seed: Annotated[int, typer.Option(help="Every tensor depends on the seed and its name alone.")] = 0,
    flavour: Annotated[
        str | None,
        typer.Option(
            "--flavour",
            autocompletion=FLAVOURS,
            help="f32, bf16, w8a8, fp8, fp8-e8m0 or fp4; the configuration's dtype without.",
        ),
    ] = None,
    config: options.Configs = [],  # noqa: B006
    sets: options.Sets = [],  # noqa: B006
) -> None:
    """Write a random checkpoint in the real layout: shards, index, config.json."""
    from runner.base.units import human_bytes
    from runner.checkpoint.checkpoint import Checkpoint
    from runner.checkpoint.random import init_checkpoint
    from runner.cli.shared import progress_bar

    resolved = resolve(config, sets)
    with progress_bar("writing") as progress:
        folder = init_checkpoint(resolved, out, seed=seed, flavour=flavour, progress=progress)
    made = Checkpoint.open(folder)
    print(f"{folder}: {resolved.name}, {len(made.tensors)} tensors, {human_bytes(made.size_bytes)}, {len(made.shards)} shards")


@checkpoint_app.command("inspect")
def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    config: options.Configs = [],  # noqa: B006
    sets: options.Sets = [],  # noqa: B006
    as_json: options.Json = False,
) -> None:
    """Show what a checkpoint holds and whether it fits its config.json, or the given configuration."""
    from runner.checkpoint.inspect import inspect_checkpoint

    wanted = resolve(config, sets) if config else _own(folder, sets) if sets else None
    found = inspect_checkpoint(folder, wanted)
    if as_json:
        print_json(found.as_json())
    else:
        print(found)
    if found.problems:
        raise typer.Exit(1)


@checkpoint_app.command("convert")
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A checkpoint of any flavour.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that does not exist yet.")],
    to: To = "w8a8",
    dtype: Dtype = None,
    worst: Annotated[int, typer.Option("--worst", min=0, metavar="N", help="How many of the most changed tensors to list.")] = 10,
    config: options.Configs = [],  # noqa: B006
    sets: options.Sets = [],  # noqa: B006
    as_json: options.Json = False,
) -> None:
    """Convert a checkpoint to another flavour, shard by shard; an interrupted conversion goes on where it stopped."""
    from dataclasses import asdict

    from runner.checkpoint.convert import convert as write_converted
    from runner.cli.shared import progress_bar

    wanted = resolve(config, sets) if config else _own(source, sets)
    with progress_bar("converting") as progress:
        made = write_converted(source, out, wanted, to=to, dtype=dtype, progress=progress)
    if as_json:
        errors = [asdict(error) for error in made.errors]
        written = {"folder": str(made.folder), "flavour": made.flavour, "shards": made.shards_written}
        print_json({**written, "notes": list(made.notes), "errors": errors})
        return
    kept = f" ({made.shards_kept} kept)" if made.shards_kept else ""
    num_shards = made.shards_written + made.shards_kept
    print(f"{made.folder}: {made.flavour}, {num_shards} shards{kept}, {len(made.changed)} tensors changed")
    for note in made.notes:
        print(f"note: {note}")
    if made.flavour == "w8a8":
        print("note: transformers has no W8A8 of this kind and takes the codes for weights; convert to another flavour for it")
    listed = table("tensor", "from", "as", "relative error>", "largest>")
    for error in made.changed[:worst]:
        listed.add_row(error.name, error.stored_from, error.stored_as, f"{error.relative:.3g}", f"{error.largest:.3g}")
    if made.changed and worst:
        console().print(listed)


def _own(folder: Path, sets: list[str]) -> Config:
    """The configuration in a checkpoint, with options."""
    from runner.checkpoint.own_config import require_own_config

    require_own_config(folder)
    return resolve([str(folder / "config.json")], sets)
