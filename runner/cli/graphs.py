"""`ringgraph lint | explain | graph | ops`: looking at graphs and ops without running them."""

from __future__ import annotations

from typing import Annotated

import typer

from runner.cli import options
from runner.cli.shared import console, messages, print_json, progress_bar, table
from runner.driver import completion
from runner.driver.driver import Setup

FORMAT = completion.one_of("text", "json", "github", "sarif")
OpName = Annotated[str, typer.Argument(autocompletion=completion.ops)]

graph_app = typer.Typer(help="Shipped graphs.", no_args_is_help=True)
ops_app = typer.Typer(help="Registered ops.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(graph_app, name="graph")
    app.add_typer(ops_app, name="ops")
    app.command()(lint)
    app.command()(explain)


@options.plans(only=options.SETUP)
def lint(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", autocompletion=completion.graphs, help="Graph files, folders, or names of shipped graphs."
        ),
    ],
    ring_heap: Annotated[
        str | None, typer.Option("--ring-heap", metavar="SIZE", help="Check that every scope fits rings of this size.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", autocompletion=FORMAT, help="text, json, github or sarif.")
    ] = "text",
    asked: options.Asked = options.AS_IT_IS,
) -> None:
    """Check graphs: 0 when clean, 1 with findings, 2 for unusable arguments."""
    from runner.base.errors import ConfigError
    from runner.lint.output import FORMATS, format_findings

    if form not in FORMATS:
        raise typer.BadParameter(f"'{form}' is not a format; expected one of {', '.join(FORMATS)}", param_hint="--format")
    try:
        with progress_bar("linting", messages(), "graphs") as progress:
            found = asked.driver.linted(*paths, ring_heap=ring_heap, progress=progress)
    except ConfigError as error:
        messages().print(str(error))
        raise typer.Exit(2) from None
    if text := format_findings(found.findings, form):
        print(text)
    if found.findings:
        raise typer.Exit(1)
    if form == "text":
        scopes = f"; every scope fits rings of {ring_heap}" if ring_heap is not None else ""
        messages().print(f"clean: {found}{scopes}")


@options.plans(only=options.SETUP)
def explain(
    graph: Annotated[
        str,
        typer.Argument(
            metavar="GRAPH|CODE", autocompletion=completion.graphs_or_codes, help="A graph file, a shipped graph, or a lint code."
        ),
    ],
    node: Annotated[str | None, typer.Argument(metavar="NODE", help="A node's dotted path, or how it ends.")] = None,
    asked: options.Asked = options.AS_IT_IS,
    as_json: options.Json = False,
) -> None:
    """Show one node: what it does, its operands, its scopes, and who reads what it makes. Or what a lint code means."""
    from runner.lint.codes import explain_rule

    if node is None:
        print(explain_rule(graph))
        return
    found = asked.driver.explain(graph, node)
    if as_json:
        print_json(found.to_dict())
    else:
        print(found)


@graph_app.command("list")
def list_graphs(as_json: options.Json = False) -> None:
    """List the shipped graphs with what they are for."""
    from runner.language.library import load_graph, shipped_graphs

    found = [(name, path, load_graph(path).doc.strip().splitlines()[:1]) for name, path in sorted(shipped_graphs().items())]
    if as_json:
        print_json([{"name": name, "file": str(path), "doc": " ".join(doc)} for name, path, doc in found])
        return
    out = table("graph", "doc")
    for name, _, doc in found:
        out.add_row(name, *(doc or [""]))
    console().print(out)


@ops_app.command("list")
def list_ops(ops: options.OpFiles = [], as_json: options.Json = False) -> None:  # noqa: B006
    """List all ops, those of installed packages included."""
    known = Setup(ops=ops).registry
    if as_json:
        print_json([_described(op) for op in known.values()])
        return
    out = table("op", "core", "doc")
    for op in known.values():
        out.add_row(op.name, op.core, op.doc.strip().partition("\n")[0])
    console().print(out)


@ops_app.command("show")
def show_op(name: OpName, ops: options.OpFiles = [], as_json: options.Json = False) -> None:  # noqa: B006
    """Show an op's operands, parameters and what it computes."""
    from runner.base.errors import RinggraphError, did_you_mean

    known = Setup(ops=ops).registry
    if name not in known:
        hint = did_you_mean(name, known) or "'ringgraph ops list' lists them"
        raise RinggraphError(f"no op is called '{name}'", hint=hint)
    op = known[name]
    if as_json:
        print_json(_described(op))
        return
    print(f"{op.name} ({op.core})\n")
    print(op.doc.strip())
    out = table("operand", "mode", "type")
    for operand in op.operands:
        mode = f"{operand.mode}, optional" if operand.optional else operand.mode
        out.add_row(operand.name, mode, f"{operand.dtype}[{', '.join(operand.dims)}]")
    print()
    console().print(out)
    for parameter, default in op.params.items():
        print(f"attrs {parameter}: {default}")
    if op.needs:
        print(f"needs {', '.join(op.needs)}")
    if op.source:
        print(f"source: {op.source}")


def _described(op) -> dict[str, object]:
    operands = [
        {"name": o.name, "mode": o.mode, "dtype": o.dtype, "dims": list(o.dims), "optional": o.optional} for o in op.operands
    ]
    return {
        "name": op.name,
        "core": op.core,
        "doc": op.doc.strip(),
        "signature": op.signature,
        "operands": operands,
        "params": dict(op.params),
        "needs": list(op.needs),
        "source": op.source,
    }
