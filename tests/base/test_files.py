"""Files whole or not at all: a write that fails, two writers of one file, and files that are told before the work."""

import errno
import json
import multiprocessing
import os
import signal
import stat
from pathlib import Path

import pytest
import torch
from full_disk import full_disk
from safetensors.torch import load
from sampled import sampled

from runner.base.files import check_writable, remove_leftovers, removed_when_ended, whole_file, write_text
from runner.base.tensor_spec import TensorSpec
from runner.checkpoint.random import write_folder
from runner.checkpoint.write import write_json, write_shard
from runner.driver.driver import program_of, resolve
from runner.models.deepseek_v4.receive_depth import PhaseDepth, plot
from runner.models.deepseek_v4.recorded_routing import RoutedCall, RoutingTable, write_routing
from runner.recorded.scope_stats import write_scope_stats
from runner.report.dot.dot import to_dot
from runner.report.frontier import Frontier, Point, draw_frontier
from runner.report.rings import draw_rings
from runner.rings.replay import eager
from runner.rings.sizes import RingSizes
from runner.serving.single_run import write_tensors
from runner.writeback.edits import write_files
from schedulers import get_scheduler

OLD = b"the good older file"


def _replay():
    return eager(get_scheduler("annotated")(program_of("moe", resolve(["tiny"], (), None)), {}), RingSizes())


def _stats(path):
    replay = _replay()
    write_scope_stats(path, replay.schedule, replay.sizes, replay.records, fatal=False)


def _frontier(path):
    points = (Point("a", 2**20, 5.0), Point("b", 2**21, 4.0))
    draw_frontier(Frontier("g", points, (), 2**19, 3.0), path)


def _depths(path):
    plot([PhaseDepth("decode", 1, 1, 1, 1, 1, 1, ())], path)


WRITERS = {
    "text.dot": lambda path: write_text(path, to_dot(_replay().schedule, "stage")),
    "stats.jsonl": _stats,
    "frontier.svg": _frontier,
    "rings.png": lambda path: draw_rings(_replay(), path),
    "routing.jsonl": lambda path: write_routing(path, RoutingTable(8, 2, 1, (RoutedCall(0, "decode", 0, ((0, 1),), {}),) * 9)),
    "dump.safetensors": lambda path: write_tensors(path, {"a": torch.zeros(1000)}),
    "graph.yaml": lambda path: write_files({path: b"x" * 1000}),
    "model.safetensors": lambda path: write_shard(path, {"a": TensorSpec("f32", (50,))}, lambda name: [torch.zeros(50)]),
    "config.json": lambda path: write_json(path, list(range(1000))),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_older_file_and_no_partial_one(name, tmp_path):
    path = tmp_path / name
    WRITERS[name](path)  # what is made once only, as the fonts of a picture, is made
    path.write_bytes(OLD)
    path.chmod(0o640)
    with full_disk(), pytest.raises(Exception, match=name) as failed:
        WRITERS[name](path)
    assert isinstance(failed.value, OSError)
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]
    WRITERS[name](path)
    assert path.read_bytes() != OLD and path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", WRITERS)
def test_a_new_file_may_be_read_by_whom_the_umask_allows(name, tmp_path):
    WRITERS[name](tmp_path / name)
    allowed = 0o666 & ~os.umask(0o022)
    os.umask(0o666 & ~allowed)
    assert (tmp_path / name).stat().st_mode & 0o777 == allowed


@pytest.mark.parametrize("name", ["text.dot", "stats.jsonl", "routing.jsonl", "dump.safetensors", "config.json"])
def test_a_pipe_is_written_and_stays_one(name, tmp_path):
    """As devices do: /dev/null in the way of a rename would be a file of ours from then on."""
    regular, pipe = tmp_path / "regular", tmp_path / "pipe"
    WRITERS[name](regular)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        WRITERS[name](pipe)
        assert os.read(reader, 1 << 16) == regular.read_bytes() and stat.S_ISFIFO(pipe.lstat().st_mode)
    finally:
        os.close(reader)


def test_of_several_files_none_changes_where_one_cannot_be_written(tmp_path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_bytes(OLD)
    second.write_bytes(OLD)
    with full_disk(), pytest.raises(OSError, match=r"b\.yaml"):
        write_files({first: b"short", second: b"x" * 1000})
    assert (first.read_bytes(), second.read_bytes()) == (OLD, OLD)
    assert sorted(tmp_path.iterdir()) == [first, second]


def _text(path, value):
    write_text(path, f"{value}" * 300_000)


def _tensors(path, value):
    write_tensors(path, {"a": torch.full((50_000,), float(value))})


def _shard(path, value):
    piece = torch.full((25_000,), float(value))
    write_shard(path, {"a": TensorSpec("f32", (50_000,))}, lambda name: [piece, piece])


def _lines(path, value):
    write_routing(path, RoutingTable(8, 2, 1, (RoutedCall(0, "decode", value, ((0, 1),), {}),) * 1000))


def _of_tensors(data):
    return {*load(data)["a"].tolist()} if len(data) > 200_000 else None


WRITTEN_TWICE = {
    "text": (_text, lambda data: {*data} if len(data) == 300_000 else None),
    "shard": (_shard, _of_tensors),
    "tensors": (_tensors, _of_tensors),
    "routing": (_lines, lambda data: {line["rank"] for line in map(json.loads, data.splitlines()[1:])}),
}
"""How a file is written, and what values it holds."""


def _write_until(write, path, value, ended):
    while not ended.is_set():
        write(path, value)


@pytest.mark.parametrize("num_reads", sampled((60, 300), (60,)))
@pytest.mark.parametrize("kind", WRITTEN_TWICE)
def test_two_writers_never_give_a_mixed_file(kind, num_reads, tmp_path):
    write, values = WRITTEN_TWICE[kind]
    path = tmp_path / "x.safetensors"
    write(path, 0)
    fork = multiprocessing.get_context("fork")
    ended = fork.Event()
    writers = [fork.Process(target=_write_until, args=(write, path, value, ended)) for value in (0, 1)]
    for writer in writers:
        writer.start()
    seen, states = [], set()
    try:
        while len(seen) < num_reads or len(states) < 2:  # in the end both have written
            data = path.read_bytes()
            seen.append(len(values(data) or ()))
            states.add(data[-100:])
    finally:
        ended.set()
        for writer in writers:
            writer.join()
    assert {*seen} == {1} and [writer.exitcode for writer in writers] == [0, 0]
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_body_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "x") as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_writer_that_was_killed_left_is_removed_and_nothing_else(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "x.json") as partial:
        left = partial.name
        raise KeyboardInterrupt
    for name in (left, "x.json", "x.partial.json"):
        (tmp_path / name).write_bytes(OLD)
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.partial.json"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(OLD)
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"


def test_a_device_is_written_itself():
    with pytest.raises(OSError, match="/dev/full") as failed, whole_file(Path("/dev/full")) as partial:
        partial.write_text("x")
    assert failed.value.errno == errno.ENOSPC
    check_writable(Path("/dev/null"))
    write_text(Path("/dev/null"), "x")


def test_what_cannot_be_written_is_told_by_name(tmp_path):
    (tmp_path / "file").write_bytes(OLD)
    check_writable(tmp_path / "new" / "x")
    assert list((tmp_path / "new").iterdir()) == []
    for path, kind in ((tmp_path, IsADirectoryError), (tmp_path / "file" / "x", OSError)):
        with pytest.raises(kind) as failed:
            check_writable(path)
        assert failed.value.filename == str(path)
    assert (tmp_path / "file").read_bytes() == OLD


def _end_in_file(folder):
    with whole_file(folder / "a") as partial, whole_file(folder / "b") as other:
        partial.write_bytes(b"half")
        other.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGTERM)


def _end_in_folder(folder):
    def fill(made):
        write_text(made / "shard", "whole")
        os.kill(os.getpid(), signal.SIGHUP)

    write_folder(folder / "a", fill)


def _end_between(folder):
    with whole_file(folder / "b") as partial:
        partial.write_bytes(OLD)
    os.kill(os.getpid(), signal.SIGTERM)


def _in_child(body, folder):
    """The status of a forked process that runs `body`; signals do there what they do by default, whoever ignores them here."""
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            body(folder)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    ("body", "number"), [(_end_in_file, signal.SIGTERM), (_end_in_folder, signal.SIGHUP), (_end_between, signal.SIGTERM)]
)
def test_a_signal_that_ends_the_process_leaves_nothing_unfinished(body, number, tmp_path):
    (tmp_path / "b").write_bytes(OLD)
    assert _in_child(body, tmp_path) == -number
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"b": OLD}


def test_a_signal_that_ends_a_fork_leaves_what_its_parent_writes(tmp_path):
    with whole_file(tmp_path / "a") as partial:
        partial.write_bytes(OLD)
        assert _in_child(lambda folder: os.kill(os.getpid(), signal.SIGTERM), tmp_path) == -signal.SIGTERM
    assert (tmp_path / "a").read_bytes() == OLD


def test_whoever_handles_signals_keeps_doing_so(tmp_path):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with removed_when_ended(tmp_path / "a"):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


def test_links_that_lead_to_each_other_are_told_by_name(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.symlink_to(two)
    two.symlink_to(one)
    for write in (lambda path: write_text(path, "x"), check_writable):
        with pytest.raises(OSError) as told:
            write(one)
        assert told.value.errno == errno.ELOOP and told.value.filename == str(one)
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}
