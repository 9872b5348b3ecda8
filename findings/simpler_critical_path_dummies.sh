#!/usr/bin/env bash
# simpler (github.com/hw-native-sys/simpler, commit 6ebaf77 of 2026-08-22; pure Python, no device): the critical path of a
# capture whose tasks depend on each other through a dummy.
#
# A good guess: a dummy runs no kernel, but it waits for its producers and its consumers wait for it, so k1 -> dummy -> k2 is as
# ordered as k1 -> k2 is, and the longest path of k1 (20 us) and k2 (20 us) is 40 us either way. A dummy costs nothing.
# What happens: `critical_path` knows only the tasks that have a row in `aicore_tasks`. A dummy has none, so both of its edges
# are dropped and nothing joins k1 to k2: no edges, a "dependency-limited latency floor" of 20 us, half of the true one, and 22
# us of "front-gap" (launch delay before the first task) in which in truth k1 ran. Part 6 of `sched_overhead_analysis` counts no
# hop and a span of 20 us likewise. Neither warns, though deps.json holds the edges and the capture holds when the dummy ended;
# `swimlane_converter` draws both arrows from the same files.
# Who is hurt: whoever has barriers, which are what dummies are for: each one cuts the path, so that the floor looks far lower
# than it is and a program bound by its dependencies looks as if more cores or a faster launch would help.
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
K1, DUMMY, K2 = 0, 1, 2


def phase(start_us, **fields):
    """A record of a phase that takes 0.2 us."""
    return {"start_cycles": start_us * TICKS_PER_US, "end_cycles": start_us * TICKS_PER_US + 10, **fields}


def capture(name, edges):
    """A capture of level 4: k1 on core 0 from 20 to 40 us, a dummy that ends at 41, k2 on core 1 from 42 to 62."""
    folder = work / name
    folder.mkdir()
    rows = [[core, task, core, at * TICKS_PER_US, (at + 20) * TICKS_PER_US, 0] for core, task, at in ((0, K1, 20), (1, K2, 42))]
    scheduler = [
        *(phase(at, kind="dispatch", loop_iter=at, tasks_processed=1, pop_hit=1, pop_miss=0) for at in (19, 41)),
        *(phase(at, kind="complete", loop_iter=at, tasks_processed=1) for at in (40, 62)),
        phase(41, kind="dummy_task", loop_iter=41, tasks_processed=1, task_id=DUMMY),
    ]
    records = {
        "chip_swimlane_level": 4,
        "metadata": {"clock_freq_hz": TICKS_PER_US * 10**6, "num_cores": 2, "core_types": ["aiv"] * 2, "core_to_thread": [0, 0]},
        "aicore_tasks": rows,
        "aicpu_tasks": [[core, register, start - 20, end + 10] for core, _, register, start, end, _ in rows],
        "aicpu_scheduler_phases": [scheduler],
        "aicpu_orchestrator_phases": [[phase(10 + task, submit_idx=task, task_id=task) for task in (K1, DUMMY, K2)]],
    }  # fmt: skip
    tasks = [
        {"task_id": str(task), "scope": "auto", "kernel_ids": [-1, kernel, -1], "block_num": 1, "args": []}
        for task, kernel in ((K1, 1), (DUMMY, -1), (K2, 2))
    ]
    arrows = [{"pred": str(a), "succ": str(b), "arg": -1, "source": "explicit", "flags": ["wait", "retain"]} for a, b in edges]
    (folder / "chip_swimlane_records.json").write_text(json.dumps(records))
    (folder / "deps.json").write_text(json.dumps({"tasks": tasks, "tensors": [], "edges": arrows}))
    (folder / "name_map_case.json").write_text(json.dumps({"callable_id_to_name": {"1": "k1", "2": "k2"}}))
    return folder


def tool(name, *arguments):
    """What the tool prints, to either stream."""
    command = [sys.executable, "-m", f"simpler_setup.tools.{name}", *map(str, arguments)]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode:
        raise SystemExit(run.stdout)
    return run.stdout


def figures(folder):
    """The edges, CPM and kinds of stall (us) by `critical_path`, and the hops and span (us) by `sched_overhead_analysis`."""
    report = tool("critical_path", folder, "--stdout")
    edges = int(re.search(r"happens-before edges: (\d+)", report)[1])
    cpm = re.search(r"static CPM path\*\*: ([\d.]+) ms .* over (\d+) tasks", report)
    stalls = {kind: round(float(ms) * 1000) for kind, ms in re.findall(r"^    - ([\w-]+): ([\d.]+) ms", report, re.M)}
    overhead = tool("sched_overhead_analysis", "--chip-swimlane-records-json", folder / "chip_swimlane_records.json")
    assert "dummy" not in report + overhead, "a tool says something about the dummy: the behaviour has changed"
    hops, span = re.search(r"path: (\d+) hops, span ([\d.]+) us", overhead).groups()
    result = (edges, round(float(cpm[1]) * 1000), int(cpm[2]), stalls, int(hops), float(span))
    print("{}: {} edges, CPM {} us over {} tasks, stalls {}; Part 6: {} hops, {} us".format(folder.name, *result))
    return result


direct = figures(capture("direct", [(K1, K2)]))
assert direct == (1, 40, 2, {"data-wait": 2}, 1, 42.2), "with a direct edge, the chain is 40 us"
through = capture("through", [(K1, DUMMY), (DUMMY, K2)])
trace = work / "trace.json"
tool("swimlane_converter", through / "chip_swimlane_records.json", "-o", trace)
events = json.loads(trace.read_text())["traceEvents"]
arrows = [event for event in events if event.get("ph") == "s" and event.get("pid") == 4 and event.get("name") == "dependency"]
print(f"swimlane_converter: {len(arrows)} dependency arrows in the Worker View")
assert len(arrows) == 2, "the converter takes the same files and draws both edges"
assert figures(through) == (0, 20, 1, {"front-gap": 22}, 0, 20.2), "the behaviour has changed"
P
echo "still so"
