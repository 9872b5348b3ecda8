"""`ringgraph lsp`: the language server that editors start."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    app.command()(lsp)


def lsp() -> None:
    """Serve an editor over standard input and output: findings, hover, completion, rename (docs/editors.md)."""
    from importlib.metadata import PackageNotFoundError, version

    from runner.editor.server import serve

    try:
        own_version = version("ringgraph")
    except PackageNotFoundError:
        own_version = "0"
    serve(own_version)
