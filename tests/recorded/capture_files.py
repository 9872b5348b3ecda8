"""Random recorded programs, and the files that the device runtime would leave of a run of one."""

import json
import random
from dataclasses import replace

from runner.base.tensor_spec import round_up
from runner.recorded.conformance import read_conformance
from runner.recorded.edges import schedule_of
from runner.recorded.recording import OUTSIDE
from runner.rings.replay import eager
from runner.rings.schedule import Begin, End, Submit, ring_of

OUTSIDE_ADDRESS = 2**40
KINDS = {"aic": [7, -1, -1], "aiv": [-1, 3, -1], "mix": [7, 3, 3], "dummy": [-1, -1, -1]}
TYPES = {"input": "INPUT", "inout": "INOUT", "existing": "OUTPUT_EXISTING", "no_dep": "UNKNOWN"}
SIZES = (1, 700, 1024, 1500, 2048, 3000, 4096, 5000)


def random_program(seed, heap=24 * 1024, manual=True):
    """A program in the conformance format that tends to wrap its rings; whether it deadlocks is for the caller to see."""
    rng = random.Random(seed)
    count = [0]

    def fresh(prefix):
        count[0] += 1
        return f"{prefix}{count[0]}"

    def tensor():
        return {"name": fresh("t"), "bytes": rng.choice(SIZES)}

    def argument(known):
        made = rng.choice(known)
        if made["bytes"] > 1 and rng.random() < 0.25:
            offset = rng.randrange(made["bytes"])
            return {"name": made["name"], "offset": offset, "bytes": rng.randint(1, made["bytes"] - offset)}
        return made["name"]

    def task(known, tasks, in_manual):
        outputs = [tensor() for _ in range(rng.choice((0, 0, 1, 1, 2, 3)))]
        uses = [argument(known) for _ in range(rng.randint(0, 3))] if known else []
        picked = {"inputs": [], "inouts": [], "existing": [], "no_dep": []}
        for use in uses:
            picked[rng.choices(list(picked), (6, 3, 1, 1))[0]].append(use)
        if rng.random() < 0.2:
            picked["inputs"].append("ext")
        kinds = ("aiv", "aic") if outputs else ("aiv", "aic", "mix", "dummy")
        item = {"task": fresh("k"), "kind": rng.choice(kinds)} | picked | {"outputs": outputs}
        if tasks and rng.random() < (0.6 if in_manual else 0.2):
            item["after"] = sorted({rng.choice(tasks) for _ in range(2)})
        tasks.append(item["task"])
        known += outputs
        return item

    def body(known, tasks, depth, in_manual):
        known, items = list(known), []
        for _ in range(rng.randint(2, 6)):
            kind = rng.choices(("alloc", "task", "scope"), (2, 5, 2 if depth < 4 else 0))[0]
            if kind == "alloc":
                made = [tensor() for _ in range(rng.choice((1, 1, 2)))]
                known += made
                items.append({"alloc": made})
            elif kind == "task":
                items.append(task(known, tasks, in_manual))
            else:
                inner = in_manual or (manual and rng.random() < 0.3)
                items.append({"scope": body(known, tasks, depth + 1, inner)} | ({"mode": "manual"} if inner else {}))
        return items

    return {
        "name": f"random_{seed}",
        "program": {"items": [item for _ in range(rng.randint(1, 3)) for item in body([], [], 0, False)]},
        "capacities": {"ring_heap": [heap] * 4, "ring_task_window": [64] * 4, "ring_dep_pool": [256] * 4},
    }


def write_capture(folder, data, *, base=2**35 + 1024, has_order=True):
    """Writes the files of an eager run of a program; returns the recording, its schedule and its replay, None if it deadlocks."""
    recording = read_conformance(data)
    schedule = schedule_of(recording)
    replay = eager(schedule, recording.sizes)
    if replay.deadlock is not None:
        return None
    files = _Files(recording, schedule, replay, base)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "deps.json").write_text(json.dumps({"tasks": files.tasks, "tensors": files.tensors, "edges": files.edges}))
    (folder / "scope_stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in files.stats()))
    (folder / "chip_swimlane_records.json").write_text(json.dumps(files.swimlane(has_order)))
    (folder / "name_map_x.json").write_text(json.dumps({"callable_id_to_name": {"7": "cube", "3": "vector"}}))
    return recording, schedule, replay


class _Files:
    def __init__(self, recording, schedule, replay, base):
        self.recording, self.schedule, self.replay = recording, schedule, replay
        self.ids, self.in_manual = [], []
        counts, modes, depth = [0] * 4, [], -1
        for step in recording.steps:
            if isinstance(step, Begin):
                depth += 1
                modes.append(recording.scopes[step.scope].mode)
            elif isinstance(step, End):
                depth -= 1
                modes.pop()
            elif isinstance(step, Submit):
                ring = ring_of(depth)
                self.ids.append(ring << 32 | counts[ring])
                self.in_manual.append(modes[-1] == "manual")
                counts[ring] += 1
        self.creator, self.address = {}, {}
        for index, submission in enumerate(schedule.submissions):
            ring = self.ids[index] >> 32
            for slot in submission.slots:
                self.creator[slot.tensor] = index
                self.address[slot.tensor] = base + sum(recording.sizes.heap[:ring]) + replay.offsets[index] + slot.offset
        self.tasks, self.tensors, self.edges, self.known, self.registered = [], [], [], {}, {}
        for index, submission in enumerate(recording.submissions):
            if not submission.is_alloc:
                self.task(index, submission)

    def task(self, index, submission):
        # as the format's keys come: inputs, outputs, then the others
        inputs = [a for a in submission.arguments if a.mode == "input"]
        others = [a for a in submission.arguments if a.mode != "input"]
        arguments = [*inputs, *[None] * len(submission.creates), *others]
        self.tasks.append(
            {
                "task_id": str(self.ids[index]),
                "scope": "manual" if self.in_manual[index] else "auto",
                "kernel_ids": KINDS[submission.kind],
                "block_num": 1,
                "args": [{"idx": k} | self.arg(argument) for k, argument in enumerate(arguments)],
            }
        )
        self.edges += [{"succ": str(self.ids[index])} | edge for edge in self.edges_of(index, submission, arguments)]

    def edges_of(self, index, submission, arguments):
        """As the runtime's replay writes them: an argument at a time, its creator if no edge names that yet, then every writer
        that is registered at the address, of an earlier tensor too, as the replay never sweeps."""
        seen = set()
        for first in submission.after:
            if first not in seen:
                yield self.edge(first, -1, "explicit")
            seen.add(first)
        if self.in_manual[index]:
            return
        known = [(k, a, self.place(a)) for k, a in enumerate(arguments) if a is not None]
        for k, argument, (address, begin, end, manual_dep) in known:
            if argument.tensor != OUTSIDE:
                first = self.creator[argument.tensor]
                if first not in seen:
                    yield self.edge(first, k, "creator")
                seen.add(first)
            if argument.mode in ("input", "inout") and not manual_dep:
                for writer in self.registered.get(address, ())[:]:
                    first, low, high = writer
                    if begin < high and low < end:
                        yield self.edge(first, k, "tensormap")
                        seen.add(first)
                        if argument.mode == "inout" and begin <= low and high <= end:
                            self.registered[address].remove(writer)
        for _, argument, (address, begin, end, manual_dep) in known:
            if argument.mode in ("inout", "existing") and not manual_dep:
                self.registered.setdefault(address, []).insert(0, (index, begin, end))

    def edge(self, first, k, source):
        flags = ["wait"] if source == "tensormap" else ["wait", "retain"]
        return {"pred": str(self.ids[first]), "arg": k, "source": source, "flags": flags}

    def place(self, argument):
        """Address, first and last byte, and whether the tensormap is left out."""
        begin = argument.offset_bytes
        if argument.tensor == OUTSIDE:
            return OUTSIDE_ADDRESS + len(argument.name), begin, begin + (argument.size_bytes or 4096), False
        tensor = self.recording.tensors[argument.tensor]
        end = tensor.size_bytes if argument.size_bytes is None else begin + argument.size_bytes
        return self.address[argument.tensor], begin, end, tensor.manual_dep and argument.size_bytes is None

    def arg(self, argument):
        if argument is None:
            return {"type": "OUTPUT"}
        if argument.tensor == OUTSIDE:
            address, size, whole = OUTSIDE_ADDRESS + len(argument.name), 4096, 4096
        else:
            address, size = self.address[argument.tensor], self.recording.tensors[argument.tensor].size_bytes
            whole = round_up(size)
        if address not in self.known:  # only the first tensor at an address is noted
            self.known[address] = str(10**19 + address)
            row = {"tensor_id": self.known[address], "buffer_addr": str(address), "version": 0, "dtype": "UINT8"}
            self.tensors.append(row | {"buffer_numel": str(whole)})
        shape = size - argument.offset_bytes if argument.size_bytes is None else argument.size_bytes
        return {
            "type": TYPES[argument.mode],
            "tensor_id": self.known[address],
            "dtype": "UINT8",
            "shape": [shape],
            "start_offset": str(argument.offset_bytes),
            "strides": [1],
        }

    def stats(self):
        sizes, scopes = self.recording.sizes, self.recording.scopes
        head = {"version": 6, "fatal": False, "dropped": 0, "total": len(self.replay.records), "tensormap_max": 65536}
        yield head | {"task_window_max": sizes.window, "heap_max": sizes.heap, "dep_pool_max": sizes.pool}
        for record in self.replay.records:
            scope = scopes[record.scope]
            yield {
                "site": f"orch.cpp:{record.scope}",
                "phase": record.phase,
                "depth": scope.depth,
                "ring": ring_of(scope.depth),
                "task_window_start": record.slots_tail,
                "task_window_end": record.slots_head,
                "heap_start": record.heap_tail,
                "heap_end": record.heap_head,
                "dep_pool_start": 1,
                "dep_pool_end": 1,
                "tensormap": 0,
            }

    def swimlane(self, has_order):
        rows = [
            [2, task, 0, 1000 + 200 * k, 1100 + 200 * k, 3]
            for k, task in enumerate(self.ids)
            if self.recording.submissions[k].kind not in ("alloc", "dummy")
        ]
        phases = [
            {"submit_idx": k, "task_id": task, "start_cycles": 900 + 50 * k, "end_cycles": 940 + 50 * k}
            for k, task in enumerate(self.ids)
        ]
        metadata = {"clock_freq_hz": 50_000_000, "num_cores": 3, "core_types": ["aic", "aiv", "aiv"]}
        head = {"chip_swimlane_level": 4 if has_order else 3, "metadata": metadata, "aicore_tasks": rows}
        return head | ({"aicpu_orchestrator_phases": [phases]} if has_order else {})


def derived(recording):
    """The recording without the edges that its source told: the rules derive them from arguments."""
    return replace(recording, submissions=tuple(replace(s, waits=None, holds=None) for s in recording.submissions))
