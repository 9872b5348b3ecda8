"""Files for tools of the device that measured runs leave, and files that cannot be written."""

import json

import pytest
from test_device_files import check_trace

from runner.checkpoint.random import init_checkpoint
from runner.config.config import load_config
from runner.driver import single
from runner.driver.device.critical import critical_path_of
from runner.driver.driver import program_of, registry, ring_sizes, schedule_of
from runner.driver.outputs import SideFiles
from runner.driver.serve import Request, prepared, serve
from runner.recorded.edges import schedule_of as schedule_of_recording
from runner.recorded.opening import read_recording
from runner.recorded.scope_stats import read_scope_stats
from runner.rings.schedule import Submit
from runner.serving.session import Placement

pytestmark = pytest.mark.usefixtures("same_programs")

NAMES = ("scope_stats.jsonl", "deps.json", "chip_swimlane_records.json", "trace.json")


def _placement(workers):
    return Placement(
        lambda program: schedule_of(program, "annotated")[0],
        lambda schedules: ring_sizes(schedules, "safe", None, None),
        workers,
    )


def _check(files, schedule):
    """The files are of one run: what it submitted, in rings, on threads as cores, in an order that its edges allow."""
    recording = read_recording(files.deps.parent)
    assert read_scope_stats(files.scope_stats).state == "complete"
    ran = schedule_of_recording(recording)
    assert 0 < len(ran.submissions) <= len(schedule.submissions)
    assert sum(isinstance(step, Submit) for step in ran.steps) == len(ran.submissions)
    start, end = recording.facts["start_us"], recording.facts["end_us"]
    assert set(start) == {k for k, item in enumerate(ran.submissions) if item.core is not None}
    for task, begun in start.items():
        for wait in ran.submissions[task].waits:
            assert end.get(wait, 0.0) <= begun + 0.001, "no task begins before what it waits for has ended"
    trace = json.loads(files.perfetto.read_text())
    slices, flows = check_trace(trace)
    assert len(slices[2, 1]) == len(ran.submissions) and flows
    assert any(event["name"].endswith(" bytes") for event in trace["traceEvents"] if event["ph"] == "C")
    found = critical_path_of(files.deps.parent)
    assert found.kernels_us + sum(found.waited_us.values()) == pytest.approx(found.makespan_us)
    return ran


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint of three layers, one of each kind."""
    config = load_config(["tiny"], ["num_hidden_layers=3", "compress_ratios=[0,4,128]"])
    return init_checkpoint(config, tmp_path_factory.mktemp("measured") / "model", seed=0)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_leaves_what_it_did(workers, tmp_path):
    """In order and on workers; trips of dynamic loops that did not run are in no file."""
    config = load_config(["tiny"], deploy="prefill")
    program = program_of("moe", config)
    files = SideFiles(*(tmp_path / name for name in NAMES))
    placed = _placement(workers)
    ran = single.run(config, program, single.Request("moe", files=files), registry(), placed)
    schedule = placed.schedule(program)
    found = _check(files, schedule)
    assert len(found.submissions) == ran.result.num_submissions < len(schedule.submissions)


def test_a_model_leaves_what_its_last_decode_call_did(model, tmp_path):
    folder = tmp_path / "files"
    files = SideFiles(*(folder / name for name in NAMES))
    request = Request(model, ((1, 2, 3),), 3, files=files)
    placed = _placement(2)
    assert serve(prepared(load_config([model / "config.json"]), request), request, registry(), placed) is not None
    _check(files, placed.schedule(program_of("decode_fwd", load_config([model / "config.json"]))))


def test_files_that_cannot_be_are_told(tmp_path, call):
    """A file that cannot be written is told before; one that fails does not swallow the plan or the other files."""
    moe = ("schedule", "moe", "--config", "tiny", "--json")
    code, out, err = call(*moe, "--perfetto", tmp_path)
    assert code == 1 and out == "" and str(tmp_path) in err
    code, out, err = call(*moe, "--deps", "/dev/full", "--swimlane", tmp_path / "s.json")
    assert code == 1 and json.loads(out)["rings"] and err == "error: '/dev/full': no space left on device\n"
    assert json.loads((tmp_path / "s.json").read_text())["chip_swimlane_level"] == 4
    code, _, err = call("run", "moe", "--config", "tiny", "--deps", tmp_path / "d.json")
    assert code == 2 and "--deps needs rings" in err and not (tmp_path / "d.json").exists()


@pytest.mark.parametrize("num_new", [0, 1])
def test_files_of_a_decode_call_are_told_where_none_ran(model, tmp_path, call, num_new):
    """The first token comes of prefill; tokens and logits are there all the same."""
    files = [
        part
        for name, path in zip(("--scope-stats", "--deps", "--swimlane", "--perfetto"), NAMES, strict=True)
        for part in (name, tmp_path / path)
    ]
    given = ("generate", "--checkpoint", model, "--prompt-ids", "1,2", "--max-new-tokens", num_new, "--ring-heap", "safe")
    code, out, err = call(*given, "--json", "--logits", tmp_path / "logits.safetensors", *files)
    assert code == 1 and len(json.loads(out)["tokens"][0]) == num_new
    assert all(str(tmp_path / path) in err for path in NAMES) and "no decode call ran" in err
    assert {path.name for path in tmp_path.iterdir()} == {"logits.safetensors"}
