"""Scopes of a schedule, written back into the files of its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from runner.base.errors import GraphError, RinggraphError, ScheduleError

if TYPE_CHECKING:
    from runner.language.library import GraphLibrary
    from runner.rings.schedule import Schedule
    from runner.writeback.annotations import Annotations

Texts = Mapping[Path, bytes]


def new_texts(planned: Schedule, annotated: Callable[[GraphLibrary], Schedule]) -> Texts:
    """The files' texts with the scopes of `planned`, only those that change; raises RinggraphError.

    `annotated` plans the graph with its own scopes, from the files that a library holds: the new texts are read, checked and
    planned.
    """
    from runner.writeback.edits import edited_files, scope_edits

    texts = edited_files(scope_edits(planned))
    if texts:
        with _as_refusal():
            _refuse_other(planned, annotated(library_of(texts)))
    return texts


def settled_texts(plan: Callable[[GraphLibrary], Schedule], annotations: Callable[[], Annotations]) -> tuple[Schedule, Texts]:
    """The plan that the files can say, and their texts with its scopes, only those that change; raises RinggraphError.

    `plan` plans the graph from the files that a library holds, after which `annotations` says what to write. The new texts are
    planned again, until nothing is left to write, so that the same command finds nothing the next time.
    """
    from runner.program.equivalence import refuse_other_work
    from runner.writeback.edits import annotation_edits, edited_files
    from schedulers import get_scheduler

    texts: dict[Path, bytes] = {}
    planned = plan(library_of(texts))
    while wanted := annotations():
        texts |= edited_files(annotation_edits(wanted), texts)
        with _as_refusal():
            after = plan(library_of(texts))
            assert planned.program is not None and after.program is not None
            refuse_other_work(planned.program, after.program)
            _refuse_other(planned, get_scheduler("annotated")(after.program, {}))
        planned = after
    return planned, texts


def library_of(texts: Texts) -> GraphLibrary:
    """A library that knows these texts, as the files of their paths; raises GraphError."""
    from runner.language.library import GraphLibrary, check_source

    library = GraphLibrary()
    for path, data in texts.items():
        graph, problems = check_source(data, str(path))
        if graph is None:
            raise GraphError(problems)
        library.add(graph)
    return library


@contextmanager
def _as_refusal() -> Iterator[None]:
    try:
        yield
    except RinggraphError as error:
        raise ScheduleError(f"the placement cannot be written as scopes; with them the graph would be wrong:\n{error}") from error


def _refuse_other(planned: Schedule, written: Schedule) -> None:
    from runner.rings.capacity import ring_loads

    for ring, (wanted, got) in enumerate(zip(ring_loads(planned), ring_loads(written), strict=True)):
        if (wanted.epochs, wanted.num_slots) != (got.epochs, got.num_slots):
            raise ScheduleError(f"ring {ring} would not be used as '{planned.strategy}' uses it")
