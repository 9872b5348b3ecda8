#!/usr/bin/env bash
# simpler (github.com/hw-native-sys/simpler, commit 6ebaf77 of 2026-08-22; pure Python, no device): "data-wait" in the report of
# `critical_path`.
#
# A good guess: "data-wait = waiting on an upstream producer", as the report explains it, is time in which the data was not
# there: a task that waits for a slow producer has it, and one whose data lie ready has not.
# What happens: it is the reverse. The report counts the gap between the end of the last producer and the start of the task, so
# the data are there throughout each "data-wait", and time spent waiting while a producer runs counts as the producer's compute,
# so that tasks submitted early which wait for slow producers have none.
# A chain k1 -> k2 -> k3 of 10 us each, in which each task is submitted 90 us after the one before it, is thus "data-wait 84.2%",
# where nothing ever waited for data: each task starts 1 us after it was submitted. The same chain submitted at once, with the
# same starts, gives the same report to the last byte: the orchestrator's records (level 4), which tell the two apart, are not
# read. (The tool's page does not say that they are; it calls the gap "scheduling stall" and these its kinds.)
# Who is hurt: whoever is bound by submission or dispatch, is told "waiting on an upstream producer", and makes the producers
# faster, which makes "data-wait" larger.
#
# SIMPLER_REPO names another place to fetch that commit from (a clone or a mirror). It was run from a mirror only, once in full.
set -euo pipefail
commit=6ebaf77156313aaeb5c9457c57b16c45b84ae7e8
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git init -q "$work/simpler"
cd "$work/simpler"
git fetch -q --depth 1 "${SIMPLER_REPO:-https://github.com/hw-native-sys/simpler}" "$commit"
git checkout -q "$commit" -- simpler_setup/tools # The folder above imports simpler's compiled part, which the tools do not need.
WORK=$work python3 - <<'P'
import json
import os
import re
import subprocess
import sys
from pathlib import Path

work = Path(os.environ["WORK"])
TICKS_PER_US = 50
COMPUTE_US = 10
STARTS_US = (20, 110, 200)
TASKS = range(3)


def report_of(name, submitted_us, compute_us=COMPUTE_US):
    """The report on a chain of three tasks on three cores, and its makespan and kinds of stall, in us."""
    folder = work / name / "rank"
    folder.mkdir(parents=True)
    rows = [[task, task, 0, start * TICKS_PER_US, (start + compute_us) * TICKS_PER_US, 0] for task, start in enumerate(STARTS_US)]
    submits = [
        {"submit_idx": task, "task_id": task, "start_cycles": at * TICKS_PER_US - 25, "end_cycles": at * TICKS_PER_US}
        for task, at in enumerate(submitted_us)
    ]
    records = {
        "chip_swimlane_level": 4,
        "metadata": {"clock_freq_hz": TICKS_PER_US * 10**6, "num_cores": 3, "core_types": ["aiv"] * 3},
        "aicore_tasks": rows,
        "aicpu_tasks": [[core, register, start - 20, end + 10] for core, _, register, start, end, _ in rows],
        "aicpu_scheduler_phases": [[]],
        "aicpu_orchestrator_phases": [submits],
    }  # fmt: skip
    tasks = [{"task_id": str(task), "scope": "auto", "kernel_ids": [-1, task, -1], "block_num": 1, "args": []} for task in TASKS]
    edges = [
        {"pred": str(task), "succ": str(task + 1), "arg": -1, "source": "explicit", "flags": ["wait", "retain"]}
        for task in TASKS[:-1]
    ]
    (folder / "chip_swimlane_records.json").write_text(json.dumps(records))
    (folder / "deps.json").write_text(json.dumps({"tasks": tasks, "tensors": [], "edges": edges}))
    (folder / "name_map_case.json").write_text(json.dumps({"callable_id_to_name": {str(task): f"k{task + 1}" for task in TASKS}}))
    run = subprocess.run(
        [sys.executable, "-m", "simpler_setup.tools.critical_path", str(work / name)], capture_output=True, text=True
    )
    if run.returncode:
        raise SystemExit(run.stderr)
    report = (folder / "critical_path_report.md").read_text()
    makespan = round(1000 * float(re.search(r"makespan\*\*: ([\d.]+) ms", report)[1]))
    stalls = {kind: round(float(ms) * 1000) for kind, ms in re.findall(r"^    - ([\w-]+): ([\d.]+) ms", report, re.M)}
    print(f"{name}: makespan {makespan} us, stalls {stalls}")
    return report, makespan, stalls


one_by_one = report_of("submitted one by one", [start - 1 for start in STARTS_US])
at_once = report_of("submitted at once", [1, 2, 3])
faster = report_of("one by one, faster kernels", [start - 1 for start in STARTS_US], COMPUTE_US // 2)
slow = report_of("submitted at once, slow producers", [1, 2, 3], 90)
assert "`data-wait` = waiting on an upstream producer" in one_by_one[0], "the explanation has changed"
assert one_by_one[1:] == (190, {"data-wait": 160}) and "data-wait: 0.160 ms (84.2%)" in one_by_one[0], "the behaviour has changed"
assert at_once == one_by_one, "the records of submission count: the behaviour has changed"
assert faster[1:] == (185, {"data-wait": 170}) and slow[1:] == (270, {}), "the behaviour has changed"
P
echo "still so"
