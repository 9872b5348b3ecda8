"""Random programs in the conformance format with all of its keys, and what each submission must keep, by the page alone."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

SIZES = (0, 1, 700, 1024, 1025, 3000)


@dataclass
class Scribe:
    """Writes a random program. Names are never used again, so that a name tells its tensor."""

    rng: random.Random
    num_items: int = 0
    num_names: int = 0
    tensors: list[list[tuple[str, int]]] = field(default_factory=lambda: [[]])  # per open scope
    tasks: list[str] = field(default_factory=list)

    def name(self, letter):
        self.num_names += 1
        return f"{letter}{self.num_names}"

    def created(self, most):
        made = []
        for _ in range(self.rng.randint(1, most)):
            tensor = {"name": self.name("v"), "bytes": self.rng.choice(SIZES)}
            if self.rng.random() < 0.15:
                tensor["manual_dep"] = True
            made.append(tensor)
        return made

    def argument(self, tensor):
        name, size = tensor
        if size >= 2 and self.rng.random() < 0.3:
            offset = self.rng.randrange(size - 1)
            return {"name": name, "offset": offset, "bytes": self.rng.randint(1, size - offset)}
        return name

    def task(self):
        known = [tensor for scope in self.tensors for tensor in scope]
        picked = self.rng.sample(known, min(len(known), self.rng.randint(0, 4)))
        item = {"task": self.name("t"), "kind": self.rng.choice(["aiv", "aic", "dummy"]), "inputs": [], "inouts": []}
        for tensor in picked:
            key = self.rng.choice(["inputs", "inputs", "inouts", "inouts", "existing", "no_dep"])
            item.setdefault(key, []).append(self.argument(tensor))
        item["outputs"] = self.created(2) if self.rng.random() < 0.5 else []
        for key, chance in (("after", 0.3), ("after_wait_only", 0.1)):
            if self.tasks and self.rng.random() < chance:
                item[key] = self.rng.sample(self.tasks[-8:], self.rng.randint(1, min(2, len(self.tasks[-8:]))))
        self.tensors[-1] += [(tensor["name"], tensor["bytes"]) for tensor in item["outputs"]]
        self.tasks.append(item["task"])
        return item

    def items(self, depth, mode):
        made = []
        for _ in range(self.rng.randint(2, 6)):
            kind = self.rng.choice(["alloc", "task", "task", "task", "scope", "scope"])
            self.num_items += 1
            if kind == "scope" and depth < 4 and self.num_items < 80:
                inner = "manual" if mode == "manual" or self.rng.random() < 0.2 else "auto"
                self.tensors.append([])
                made.append({"scope": self.items(depth + 1, inner), "mode": inner})
                self.tensors.pop()
            elif kind == "alloc":
                alloc = {"alloc": [{"name": t["name"], "bytes": t["bytes"]} for t in self.created(3)]}
                self.tensors[-1] += [(tensor["name"], tensor["bytes"]) for tensor in alloc["alloc"]]
                made.append(alloc)
            else:
                made.append(self.task())
        return made


def random_items(seed):
    """The items of a program of up to about 100 submissions."""
    scribe = Scribe(random.Random(seed))
    return [item for _ in range(scribe.rng.randint(1, 4)) for item in scribe.items(0, "auto")]


def keeps(items):
    """Per submission in order the submissions whose blocks it keeps: creators of its arguments (auto), and `after` (always)."""
    creator, task_of, found = {}, {}, []

    def walk(items, mode):
        for item in items:
            if "scope" in item:
                walk(item["scope"], item["mode"])
                continue
            index, kept = len(found), set()
            for key in ("inputs", "inouts", "existing", "no_dep") if mode == "auto" else ():
                for argument in item.get(key, []):
                    kept.add(creator[argument["name"] if isinstance(argument, dict) else argument])
            kept.update(task_of[name] for name in item.get("after", []))
            for tensor in item.get("outputs", item.get("alloc", [])):
                creator[tensor["name"]] = index
            if "task" in item:
                task_of[item["task"]] = index
            found.append(kept)

    walk(items, "auto")
    return found
