"""Programs and plans in the conformance format read back to what they were, both ways."""

import json
from dataclasses import replace

import pytest
from random_programs import loop_program, random_program
from recorded_programs import random_items
from sampled import sampled

from runner.driver.driver import program_of, resolve
from runner.recorded.conformance import read_conformance
from runner.recorded.edges import schedule_of
from runner.recorded.restated.schedules import recording_of
from runner.recorded.writing import program_json
from runner.rings.schedule import Begin, End, Submit
from runner.rings.sizes import RingSizes
from schedulers import get_scheduler


def read_back(recording):
    return read_conformance(json.loads(json.dumps(program_json(recording))), recording.file)


def facts(schedule):
    """A schedule but for names, loops and host reads; tensors from outside in the order of their first entries."""
    outside, found = {}, []
    for item in schedule.submissions:
        entries = []
        for entry in item.entries:
            if entry.owner < 0:
                entry = entry._replace(offset=outside.setdefault(entry.offset, len(outside)))
            entries.append(entry)
        slots = [(slot.offset, slot.size_bytes) for slot in item.slots]
        if item.core is None and item.num_tensors == 1:  # an arena, or one tensor
            slots = [(0, item.size_bytes)]
        edges = item.waits, item.holds, item.explicit
        found.append((item.size_bytes, slots, edges, item.core, item.num_blocks, entries, item.num_tensors))
    steps = [step for step in schedule.steps if isinstance(step, Begin | End | Submit)]
    return found, steps, [(scope.depth, scope.mode) for scope in schedule.scopes]


def check(schedule):
    recording = recording_of(schedule, RingSizes())
    assert facts(schedule_of(recording)) == facts(schedule)
    again = read_back(recording)
    assert facts(schedule_of(again)) == facts(schedule)
    assert read_back(replace(again, facts=recording.facts)).submissions == again.submissions
    return sum(submission.waits is not None for submission in recording.submissions)


@pytest.mark.parametrize("num", sampled((60, 300), (60,)))
def test_recorded_programs_read_back_to_themselves_and_so_do_their_schedules(num):
    for seed in range(num):
        recording = read_conformance({"program": {"items": random_items(seed)}})
        again = read_back(recording)
        assert again.submissions == recording.submissions and again.tensors == recording.tensors
        assert again.steps == recording.steps
        assert check(schedule_of(recording)) == 0, "the rules say all edges"


@pytest.mark.parametrize("num", sampled((20, 60), (20,)))
@pytest.mark.parametrize("strategy", ["annotated", "manual", "autoscope", "minpeak"])
@pytest.mark.usefixtures("short_searches")
def test_plans_read_back_to_themselves(strategy, num):
    for seed in range(num if strategy != "minpeak" else num // 4):
        for make in (random_program, loop_program):
            check(get_scheduler(strategy)(make(seed), {}))


@pytest.mark.parametrize("strategy", ["annotated", "minpeak"])
def test_plans_of_shipped_graphs_read_back_to_themselves(strategy):
    for graph in ("decode_fwd", "moe"):
        program = program_of(graph, resolve(["tiny"], (), "decode"))
        check(get_scheduler(strategy)(program, {}))


def test_names_that_look_like_numbered_ones_stay_apart():
    task = {"kind": "aiv", "inputs": []}
    items = [task | {"task": name, "kernel": kernel} for name, kernel in (("x", "a"), ("y", "a"), ("z", "a.0"), ("w", "a.1"))]
    items += [{"alloc": [{"name": "a.1", "bytes": 8}]}, task | {"task": "v", "after": ["x", "y", "z", "w", "a.1"]}]
    recording = read_conformance({"program": {"items": items}})
    assert read_back(recording).submissions == recording.submissions
