"""Random `share:` lists: those that lint takes put no two tensors in bytes at the same time, and change no result; of the others
lint names two tasks, of which one still uses what the other would overwrite.

`RINGGRAPH_SEEDS=100:1100 pytest tests/expansion/test_random_lists.py` takes others.
"""

import os
import random
import re
from collections import Counter

import random_lists

from runner.program.spans import host_reads
from runner.verify.verify import verify
from schedulers import get_scheduler

USED = re.compile(
    r"share: (the ring )?'(?P<entry>.+?)' "
    r"(would take the bytes of '(?P<old>.+?)' while they are|has one place for all trips, .* is|is (?P<small>too small): .* is) "
    r"in use: "
    r"'(?P<last>.+?)' \(line (?P<line>\d+)\) uses '(?P<used>.+?)' "
    r"when '(?P<first>.+?)' \(line (?P<at>\d+)\) has begun to write '(?P<new>.+?)'"
)


def lives(program):
    """First and last touch of each tensor, by tensor: tasks, or half a step before one for a value read on the host."""
    found = {}
    touched = [(region.tensor, task.id) for task in program.tasks for region in task.operands.values()]
    touched += [(tensor, task - 0.5) for task, trips in host_reads(program.body) for tensor in trips.reads]
    touched += [(tensor, len(program.tasks)) for tensor in program.outputs.values()]
    for tensor, at in touched:
        first, last = found.get(tensor, (at, at))
        found[tensor] = min(first, at), max(last, at)
    return found


def check_finding(program, message, lines):
    """The two tasks are there, at these lines, and their tensors are alive at the same time."""
    told = USED.match(message)
    if told is None:
        assert "reads '" in message or "is a result of the graph" in message or "nothing" in message, message
        return
    alive = lives(program)

    def ends(path, line, name, which):
        tasks = [task for task in program.tasks if task.path == path and task.mark.line + lines[task.mark.file] == int(line)]
        tensors = {r.tensor for task in tasks for r in task.operands.values() if program.tensors[r.tensor].name == name}
        return {(t, task.id) for t in tensors for task in tasks if t in alive and alive[t][which] == task.id}

    last = ends(told["last"], told["line"], told["used"], 1)
    first = ends(told["first"], told["at"], told["new"], 0)
    assert any(t != u and alive[t][0] <= alive[u][1] and at <= until for t, until in last for u, at in first), message


def check_places(program):
    """No two tensors of an arena lie in the same bytes while both are alive."""
    alive = lives(program)
    for arena in program.arenas:
        lows = dict(zip(arena.tensors, arena.offsets, strict=True))
        rows = [(low, low + program.tensors[t].spec.size_bytes, *alive[t]) for t, low in lows.items() if t in alive]
        for k, (low, high, first, last) in enumerate(rows):
            for low2, high2, first2, last2 in rows[:k]:
                assert low >= high2 or low2 >= high or last < first2 or last2 < first


def mended(share, found):
    """Takes away what lint refuses: entries that would take bytes in use, and places that trips cannot have alike."""
    for k, one in enumerate(share):
        name, entry = next(iter(one.items())) if isinstance(one, dict) else (one, {})
        mended(entry.get("share", []), found)
        for finding in found:
            told = USED.match(finding.message)
            if told is not None and told["entry"] == name:
                if told["small"]:
                    entry["ring"] += 1
                elif told["old"]:
                    entry["replaces"] = [old for old in entry.get("replaces", []) if old != told["old"]]
                else:
                    entry["copies"] = 9
        entry = {key: value for key, value in entry.items() if value != []}
        share[k] = {name: entry} if entry else name


def test_random_lists(tmp_path):
    begin, _, end = os.environ.get("RINGGRAPH_SEEDS", "0:30").partition(":")
    counts = Counter()
    for seed in range(int(begin), int(end)):
        rng = random.Random(seed)
        graph, stage = random_lists.graphs(rng)
        path = random_lists.written(tmp_path, graph, stage)
        if random_lists.findings(path):
            continue
        plain = random_lists.cells(random_lists.SETUP.program(path))
        before = {str(file): len(file.read_text().splitlines()) for file in tmp_path.iterdir()}
        stage["share"] = random_lists.random_list(rng, random_lists.names(stage))
        known = random_lists.names(graph)
        known = known if stage["share"] else [name for name in known if not name.startswith("stage")]
        graph["share"] = random_lists.random_list(rng, known)
        lists = [one for one in (graph, stage) if one["share"]]
        keys = ("graph", "inputs", "outputs", "share", "body")
        stage, graph = ({key: one[key] for key in keys if one.get(key)} for one in (stage, graph))
        found = []
        for _ in range(20):
            random_lists.written(tmp_path, graph, stage)
            lines = {str(file): len(file.read_text().splitlines()) - before[str(file)] for file in tmp_path.iterdir()}
            found = random_lists.findings(path)
            counts.update(finding.code for finding in found)
            for finding in found:
                if finding.code == "G339":
                    check_finding(plain, finding.message, lines)
            if not found:
                break
            for one in lists:
                mended(one["share"], found)
        if found:
            continue
        program = random_lists.cells(random_lists.SETUP.program(path))
        check_places(program)
        schedule = get_scheduler("annotated")(program, {})
        assert verify(schedule) == [], f"seed {seed}"
        assert random_lists.in_any_order(plain, program, schedule, seed), f"seed {seed}"
        counts["taken"] += 1
        counts["rings"] += any("ring:" in file.read_text() for file in tmp_path.iterdir())
    assert counts["taken"] > 12 and counts["G339"] > 12 and counts["rings"] > 3, counts


def test_tasks_have_paths_of_their_own(tmp_path):
    """Also those of cases that are decided at run time, which may have the same ids, inside of each other too."""
    for seed in range(40):
        graph, stage = random_lists.graphs(random.Random(seed))
        program = random_lists.SETUP.program(random_lists.written(tmp_path, graph, stage))
        paths = Counter(task.path for task in program.tasks)
        assert max(paths.values()) == 1, f"seed {seed}: {paths.most_common(1)}"
