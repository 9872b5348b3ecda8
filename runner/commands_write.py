"""`ringgraph schedule --write`, which `runner.commands_memory` hands over to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from runner.commands_common import messages
from runner.errors import GraphError, RinggraphError, ScheduleError

if TYPE_CHECKING:
    from runner.loader import GraphLibrary
    from runner.schedule import Schedule


def write_scopes(planned: Schedule, annotated: Callable[[GraphLibrary], Schedule]) -> None:
    """Writes the scopes of `planned` into the graph's files, or raises RinggraphError and writes none of them.

    `annotated` plans the graph with its own scopes, from the files that a library holds: the new texts are read, checked and
    planned before anything is written.
    """
    from runner.loader import GraphLibrary, check_source
    from runner.writeback import edited_files, scope_edits, write_files

    contents = edited_files(scope_edits(planned))
    if not contents:
        messages().print("nothing to write: the graph has these scopes", markup=False)
        return
    library = GraphLibrary()
    try:
        for path, data in contents.items():
            graph, problems = check_source(data, str(path))
            if graph is None:
                raise GraphError(problems)
            library.add(graph)
        _refuse_other(planned, annotated(library))
    except RinggraphError as error:
        raise ScheduleError(f"the placement cannot be written as scopes; with them the graph would be wrong:\n{error}") from error
    write_files(contents)
    for path in contents:
        messages().print(f"wrote {path}", markup=False)


def _refuse_other(planned: Schedule, written: Schedule) -> None:
    from runner.capacity import ring_loads

    for ring, (wanted, got) in enumerate(zip(ring_loads(planned), ring_loads(written), strict=True)):
        if (wanted.epochs, wanted.num_slots) != (got.epochs, got.num_slots):
            raise ScheduleError(f"ring {ring} would not be used as '{planned.strategy}' uses it")
