"""`ringgraph lsp`: the language server that editors start."""

from __future__ import annotations

import os
import sys

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
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what anybody prints, as a file of ops may, is no message of the protocol
    serve(own_version, sys.stdin.buffer, sink)
