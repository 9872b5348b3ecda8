"""`ringgraph config`: what a configuration comes to."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from runner.cli import options
from runner.cli.shared import console, print_json, table
from runner.driver.driver import resolve

config_app = typer.Typer(help="Show presets and what a configuration comes to.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(config_app, name="config")


@config_app.command("list")
def list_presets() -> None:
    """List the shipped presets."""
    from runner.config.sources import presets

    for name in presets():
        print(name)


@config_app.command("show")
def show(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Fields or dims to show; all without.")] = None,
    config: options.Configs = [],  # noqa: B006
    sets: options.Sets = [],  # noqa: B006
    deploy: options.Deploy = None,
    ep: options.Ep = None,
    as_json: options.Json = False,
) -> None:
    """Show every field, dim and dtype after all layers, and where each was given."""
    from runner.base.errors import ConfigError, did_you_mean

    resolved = resolve(config, sets, deploy, ep)
    everything = {**resolved.values, **{f"{{{name}}}": dtype for name, dtype in resolved.dtypes.items()}}
    for name in names or ():
        if name not in everything:
            raise ConfigError(f"no field or dim is called '{name}'", hint=did_you_mean(name, everything))
    chosen = {name: value for name, value in everything.items() if not names or name in names}
    if as_json:
        shown = {name: value for name, value in chosen.items() if not name.startswith("{")}
        dtypes = {name[1:-1]: value for name, value in chosen.items() if name.startswith("{")}
        print_json({"name": resolved.name, "deploy": resolved.deploy, "values": shown, "dtypes": dtypes})
        return
    print(f"{resolved.name}, deployment {resolved.deploy}" if resolved.deploy else resolved.name)
    out = table("name", "value", "from")
    for name, value in chosen.items():
        origin = "" if name.startswith("{") else resolved.origin(name)
        out.add_row(name, _plain(value), origin)
    console().print(out)


@config_app.command("schema")
def schema(config: options.Configs = []) -> None:  # noqa: B006
    """Print the JSON Schema of a layer over these, for editors."""
    from runner.config.schema import layer_schema
    from runner.driver.driver import DEFAULT_CONFIG

    print_json(layer_schema(config or DEFAULT_CONFIG))


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
