"""The command line: `ringgraph COMMAND`.

Commands are the modules beside this one, which import what they need when they run, so that `--help` and `lint` start quickly.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from functools import cache
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.main import get_command

from runner.base.errors import RinggraphError
from runner.base.threads import prepare
from runner.cli import checkpoints, configs, generate, graphs, receive_depth, recorded, run, schedule, sizing
from runner.cli.device import critical, placement
from runner.cli.editor import lsp, watch
from runner.cli.pictures import pictures, view
from runner.cli.results.imports import failed_import
from runner.cli.results.replayed import told_of
from runner.cli.starts import new
from runner.ranks.reports import end, own_folder, own_rank, write_report

app = typer.Typer(
    name="ringgraph",
    help="Runs model pipelines written as YAML graphs, on ring heaps that cannot overflow.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version as installed_version

        print(f"ringgraph {installed_version('ringgraph')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


COMMANDS = (
    graphs,
    pictures,
    view,
    lsp,
    watch,
    new,
    configs,
    checkpoints,
    generate,
    run,
    schedule,
    recorded,
    critical,
    placement,
    receive_depth,
    sizing,
)
for module in COMMANDS:
    module.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Runs one command and ends the process: 0 done, 1 a problem, 2 unusable arguments, 130 interrupted."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # who started this closed it: nothing is there to read, and what is said goes nowhere
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):  # a name from a file may have characters that no encoding has, such as half a pair
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    prepare()
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # before torch: products whose bits do not depend on threads or other rows
    if own_rank() is not None:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # what fails between ranks is told once, and by us
    status = _status(arguments)
    if (problem := _output_problem()) is not None:
        if not status:
            print(f"error: standard output: {problem}", file=sys.stderr)
        status = status or 1
    end(status)


def _output_problem() -> str | None:
    """What kept the results from being written, all of them; Python would tell it with a status of its own, or not at all."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # it is flushed once more when Python ends
        return (error.strerror or str(error)).lower()
    return None


@cache
def _command() -> Callable[..., Any]:
    """All commands, as typer makes them of `app`: once, however many a process runs."""
    return get_command(app)


def _status(arguments: list[str] | None) -> int:
    """Runs one command and tells what went wrong; returns the exit status."""
    try:
        _command()(args=arguments, prog_name="ringgraph", obj=sys.argv[1:] if arguments is None else arguments)
    except RinggraphError as error:
        _tell(error, told_of(error))
    except OSError as error:
        no_name = "standard output: " if error.errno in _FULL else ""  # files that we write are named (`runner.base.files`)
        where = f"'{error.filename}': " if error.filename is not None else no_name
        _tell(error, failed_import(error) or f"error: {where}{(error.strerror or str(error)).lower()}")
    except SystemExit as ended:
        if (problem := failed_import(ended)) is not None:
            print(problem, file=sys.stderr)
            return 1
        if ended.code == 130:  # how typer ends a command that Ctrl-C interrupted, without a word
            print("interrupted", file=sys.stderr)
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        raise
    except KeyboardInterrupt:  # before typer listens: while it makes its commands
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # nobody foresaw it: Python shows all of it, unless the process that started this rank does
        if (problem := failed_import(error)) is not None:
            print(problem, file=sys.stderr)
            return 1
        if _reported(error):
            return 1
        if own_rank() is None:
            raise
        from traceback import print_exc

        print_exc()
    return 1


def _tell(error: Exception, text: str) -> None:
    if not _reported(error):
        print(text, file=sys.stderr)


def _reported(error: Exception) -> bool:
    """Whether the process that started this one has been told, as it speaks for all of its ranks."""
    if own_folder() is None:
        return False
    from runner.ranks.join import report_of

    return write_report(report_of(error))


if __name__ == "__main__":
    main()
