"""`ringgraph watch` in a process of its own: what a save changes, what a broken save leaves, and how it ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from queue import Empty, Queue

import pytest
from places import ROOT

GRAPH = """graph: g
inputs: {x: "{act}[T, D]"}
weights: {w: {type: "{wd}[D]", from: "w"}}
outputs: {y: "{act}[T, D]"}
body:
  - scope: inner
    body:
      - op: rms_norm
        in: {x: x, w: w}
        out: {y: "h: {act}[T, D]"}
      - op: rms_norm
        id: second
        in: {x: h, w: w}
        out: {y: y}
"""


class Watched:
    """A running command; `until` reads lines up to one that holds a text."""

    def __init__(self, *arguments):
        command = [sys.executable, "-c", "import sys; from runner.cli.main import main; main(sys.argv[1:])", "watch", *arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"}
        )
        self.lines: Queue[str] = Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)

    def until(self, text, seconds=60):
        found = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                found.append(self.lines.get(timeout=0.1))
            except Empty:
                assert self.process.poll() is None or not self.lines.empty(), self.process.stderr.read()
                continue
            if text in found[-1]:
                return "".join(found)
        raise AssertionError(f"no '{text}' in {found}")

    def end(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


@pytest.fixture
def watch():
    """Starts the command; whatever still runs at the end of a test is ended."""
    started = []

    def start(*arguments):
        started.append(Watched(*arguments))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait(60)


@pytest.fixture
def graph(tmp_path):
    path = tmp_path / "g.yaml"
    path.write_text(GRAPH, encoding="utf-8")
    return path


def saved(path, text):
    """As editors save: a new file takes the place of the old one."""
    beside = path.with_suffix(".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def test_saves_are_told_per_ring_and_scope(graph, watch):
    watched = watch(str(graph), "--every", "0.05")
    assert "ring 1 2.00 KiB" in watched.until("safely")
    saved(graph, GRAPH.replace("in: {x: h, w: w}", "in: {x: h_, w: w}"))
    told = watched.until("no new plan")
    assert "G306" in told and "the last good one takes 2.00 KiB" in told
    saved(
        graph,
        GRAPH.replace("- op: rms_norm\n        in", '- alloc: {more: "f32[T, D]"}\n      - op: rms_norm\n        in', 1),
    )
    told = watched.until("scope inner")
    assert "ring 1: safe 2.00 KiB -> 4.00 KiB (+2.00 KiB)" in told
    assert "scope inner (ring 1), changed: 2.00 KiB -> 4.00 KiB (+2.00 KiB)" in told
    saved(graph, GRAPH)
    assert "now 2.00 KiB safely, 4.00 KiB before" in watched.until("before")
    saved(graph, f"{GRAPH}# nothing more\n")
    assert "takes as much as before" in watched.until("as before")
    assert watched.end() == 0
    assert watched.process.stderr.read() == ""


def test_files_that_a_graph_is_made_from_count_too(graph, tmp_path, watch):
    user, layer = tmp_path / "user.yaml", tmp_path / "layer.yaml"
    layer.write_text("hidden_size: 64\n", encoding="utf-8")
    user.write_text('graph: user\ninputs: {x: "{act}[T, D]"}\noutputs: {y: "{act}[T, D]"}\nbody:\n  - use: g\n', encoding="utf-8")
    watched = watch(str(user), "--config", "tiny", "--config", str(layer), "--every", "0.05", "--rounds", "3")
    watched.until("safely")
    saved(graph, GRAPH.replace("scope: inner", "scope: other"))
    assert "scope g.inner (ring 1), gone" in watched.until("scope g.other (ring 1), new")
    saved(layer, "hidden_size: 128\n")
    assert "2.00 KiB -> 4.00 KiB" in watched.until("ring 1: safe")
    assert watched.process.wait(60) == 0


def test_a_graph_that_comes_later_is_seen(graph, tmp_path, watch):
    user = tmp_path / "user.yaml"
    user.write_text("graph: user\nbody:\n  - use: later\n", encoding="utf-8")
    watched = watch(str(tmp_path), "--every", "0.05", "--rounds", "2")
    assert "G311" in watched.until("user.yaml: no plan")
    saved(tmp_path / "later.yaml", 'graph: later\nbody:\n  - alloc: {a: "f32[4]"}  # ringgraph: ignore[G313, G314]\n')
    assert "takes" in watched.until("user.yaml:")
    assert watched.process.wait(60) == 0


def test_a_path_that_is_nothing_ends_it(tmp_path, watch):
    watched = watch(str(tmp_path / "none.yaml"))
    assert watched.process.wait(60) == 1
    assert "G100" in watched.process.stderr.read()
