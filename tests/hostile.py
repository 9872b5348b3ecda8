"""Inputs that ask for much or are damaged: files with the command that reads them, drawn from a seed.

`shape` gives a file of one form grown to a size: many names, keys, findings, trips, uses, levels. `mutant` gives a valid file of
any kind with pieces put in, cut out, doubled or replaced.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from places import DATA, ROOT

TINY = ("--config", "tiny")
GRAPH_COMMANDS = (
    *(("lint", "g.yaml", *TINY), ("schedule", "g.yaml", *TINY), ("size", "g.yaml", *TINY), ("explain", "g.yaml", "x", *TINY)),
    *(("dot", "g.yaml", *TINY, "-o", "out.dot"), ("schedule", "g.yaml", *TINY, "--batch-allocs", "--json")),
    *(("run", "g.yaml", *TINY), ("frontier", "g.yaml", *TINY, "--json"), ("lint", "g.yaml", *TINY, "--format", "sarif")),
    ("schedule", "g.yaml", *TINY, "--scheduler", "unscoped", "--write"),
)
MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Case:
    """Files to be written, and the command to be run in their folder."""

    name: str
    files: Mapping[str, bytes]
    command: tuple[str, ...]


def laughs(levels: int) -> str:
    """Anchors of which each holds the one before nine times."""
    return "a0: &a0 [x, x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(levels))


# --- graphs of one form -----------------------------------------------------------------------------------------------

HEAD = 'graph: g\ninputs: {x: "f32[4, 4]", w: "f32[4]", n: "i32[4]"}\noutputs: {y: "f32[4, 4]"}\nbody:\n'
ALLOC = '{alloc: {b: "f32[4]"}}'
NORM = "{op: rms_norm, in: {x: x, w: w}, out: {y: "


USED_LOOP = f"{{for: u, range: 5000, body: [{ALLOC}]}}"


def each(text: str) -> Callable[[int], str]:
    """So many of an item, `#` its number."""
    return lambda size: HEAD + "".join(f"  - {text.replace('#', str(number))}\n" for number in range(size))


def nested(begin: str, end: str, levels: int = 10**9) -> Callable[[int], str]:
    return lambda size: f"{HEAD}  - {begin * min(size, levels)}{ALLOC}{end * min(size, levels)}\n"


def one(before: str, part: str, after: str = "", joint: str = ", ") -> Callable[[int], str]:
    """One line with so many parts."""
    return lambda size: before + joint.join([part.replace("#", str(number)) for number in range(size)]) + after + "\n"


def loops(*ranges: str, body: str = ALLOC) -> Callable[[int], str]:
    text = f"{body}"
    for trips in ranges:
        text = f"{{for: t, range: {trips}, body: [{text}]}}"
    return lambda size: f"{HEAD}  - {text}\n"


GRAPHS: dict[str, Callable[[int], str]] = {
    "ops": each(NORM + '"b#: f32[4, 4]"}}'),
    "chain": each("{op: rms_norm, in: {x: y, w: w}, out: {y: y}}"),
    "writes": each(NORM + "y}}"),
    "parts": lambda size: f"{HEAD}  - {{alloc: {{q: 'f32[{size}, 4, 4]'}}}}\n" + each(NORM + '"q[#]"}}')(size).removeprefix(HEAD),
    "explicit ids": lambda size: each(f"{{id: rms_norm_#, {NORM[1:]}y}}}}")(size) + f"  - {NORM}y}}}}\n",
    "unknown names": each("{op: rms_norm, in: {x: n#, gamma: x}, out: {y: y}}"),
    "unknown ops": each("{op: rms_nrm#}"),
    "unknown values": each('{alloc: {b#: "f32[Q#]"}}'),
    "unknown graphs": each("{use: q#}"),
    "unknown after": each(NORM + 'y}, after: ["q#"], id: "i#"}'),
    "syntax": each('{alloc: {b#: "f32[1 +]"}}'),
    "scopes": each("{scope: s#, body: []}"),
    "branches": each(f'{{if: "n[0]", then: [{ALLOC}]}}'),
    "loops": each(f"{{for: t#, range: 100, body: [{ALLOC}]}}"),
    "dynamic loops": each(f'{{for: t, range: "n[0]", max: 100000000000#, body: [{ALLOC}]}}'),
    "keys": one("{graph: g, body: [], ", "k#: 1", "}"),
    "key again": one("{graph: g, body: [], ", "doc: a", "}"),
    "inputs": one("{graph: g, body: [], inputs: {", 'n#: "f32[4]"', "}}"),
    "params": one("{graph: g, body: [], params: {", "p#: #", "}}"),
    "no types": one("{graph: g, body: [], inputs: {", "n#: q", "}}"),
    "no items": one("{graph: g, body: [", "1", "]}"),
    "no integers": one("{graph: g, body: [", "0x_", "]}"),
    "cases": one(HEAD + '  - {switch: "n[0]", cases: {', f"#: [{ALLOC}]", "}}"),
    "tensors": one(HEAD + "  - {alloc: {", 'b#: "f32[4]"', "}}"),
    "dims": one(HEAD + '  - {alloc: {b: "f32[', "1", ']"}}'),
    "sum": one(HEAD + '  - {alloc: {b: "f32[', "1", ']"}}', "+"),
    "digits": one(HEAD + '  - {for: t, range: ', "9", ", body: []}", ""),
    "text": one(HEAD + "  - {op: ", "a", "}", ""),
    "source": one('{graph: g, body: [], weights: {w: {type: "f32[4]", from: "', "{T}", '"}}}', ""),
    "anchors": each("&a# " + NORM + "y}}"),
    "aliases": lambda size: f"{HEAD}  - &a {NORM}y}}}}\n" + "  - *a\n" * size,
    "no anchors": each("*a#"),
    "laughs": lambda size: laughs(min(size, 40)),
    "comments": each("# ringgraph: ignore[G#]"),
    "lines": lambda size: HEAD + "#\n" * size,
    "brackets": lambda size: "[" * size,
    "braces": lambda size: "{a: " * size,
    "dashes": lambda size: "- " * size,
    "deep scopes": nested("{scope: s, body: [", "]}"),
    "deep branches": nested('{if: "n[0]", then: [', "]}", 12),
    "deep dynamic": nested('{for: t, range: "n[0]", max: 3, body: [', "]}", 14),
    "a trillion": loops("1000000000000"),
    "a million": loops("1000000"),
    "dynamic": loops('"n[0]", max: 1000000000000'),
    "empty loops": loops(*["1000"] * 8, body=""),
    "many tasks": loops("200000", body=", ".join([ALLOC] * 20)),
    "edges": lambda size: f"{HEAD}  - {USED_LOOP}\n  - {{for: t, range: 5000, body: [{NORM}'f32[4]'}}, after: [u]}}]}}\n",
}  # fmt: skip


def used(levels: int, times: int, params: bool) -> dict[str, str]:
    """Graphs of which each uses the next so many times."""
    given = ", with: {p: p * 10 + #}" if params else ""
    head = "params: {p: 0}\n" if params else ""
    files = {}
    for level in range(levels):
        uses = ", ".join([f"{{use: h{level + 1}{given}}}".replace("#", str(number)) for number in range(times)])
        files[f"h{level}.yaml"] = f"graph: h{level}\n{head}body: [{uses}]\n"
    return files | {f"h{levels}.yaml": f"graph: z\n{head}body: [{ALLOC}]\n"}


USES: dict[str, Callable[[int], dict[str, str]]] = {
    "uses": lambda size: used(0, 0, False) | {"g.yaml": each("{use: h0}")(size)},
    "ten of ten": lambda size: used(10, 10, False) | {"g.yaml": HEAD + "  - {use: h0}\n"},
    "ten of ten with params": lambda size: used(10, 10, True) | {"g.yaml": HEAD + "  - {use: h0, with: {p: 1}}\n"},
    "a chain of uses": lambda size: used(min(size, 500), 1, False) | {"g.yaml": HEAD + "  - {use: h0}\n"},
    "a circle of uses": lambda size: {"h.yaml": "graph: h\nbody: [{use: g}]\n", "g.yaml": each("{use: h}")(size)},
    "many files": lambda size: (
        {"g.yaml": each("{use: h#}")(min(size, 500))}
        | {f"h{number}.yaml": "graph: h\nbody: []\n" for number in range(min(size, 500))}
    ),
    "bindings": lambda size: used(0, 0, False) | {"g.yaml": one(HEAD + "  - {use: h0, with: {", "k#: x", "}}")(size)},
}


# --- other files of one form --------------------------------------------------------------------------------------------

REPLAY, CONFIG = ("ring-heap", "replay", "p.json"), ("config", "show", *TINY, "--config", "c.yaml")


def dims(size: int, text: str) -> str:
    """Dims of which each is an expression over the one before."""
    return "dims:\n" + "".join(f"  d{n + 1}: {text.replace('#', str(n))}\n" for n in range(size)) + "  d0: 1\n"


def keys(size: int) -> dict[str, object]:
    return {"model_type": "deepseek_v4"} | {f"key{number}": number for number in range(size)}


def program(items: str) -> str:
    return '{"name": "p", "program": {"items": [' + items + "]}}"


OTHERS: dict[str, tuple[str, tuple[str, ...], Callable[[int], str]]] = {
    "recorded loop": ("p.json", REPLAY, lambda size: program(f'{{"loop": {10**9}, "body": []}}')),
    "recorded loops": ("p.json", REPLAY, lambda size: program('{"loop": 1000, "body": [' * 20 + "]}" * 20)),
    "recorded allocs": ("p.json", REPLAY, lambda size: program(f'{{"loop": {size}, "body": [{{"alloc": "a", "bytes": 64}}]}}')),
    "recorded scopes": ("p.json", REPLAY, lambda size: program(", ".join(['{"scope": []}'] * size))),
    "recorded nesting": ("p.json", REPLAY, lambda size: program('{"scope": [' * size + "]}" * size)),
    "recorded tasks": ("p.json", REPLAY, lambda n: program('{"alloc": "a", "bytes": 1}' + ', {"task": "", "inouts": ["a"]}' * n)),
    "recorded names": ("p.json", REPLAY, lambda size: program('{"task": "t", "inputs": [' + ", ".join(['"a"'] * size) + "]}")),
    "configuration keys": ("c.yaml", CONFIG, lambda size: "".join(f"key{number}: {number}\n" for number in range(size))),
    "configuration dims": ("c.yaml", CONFIG, lambda size: dims(size, "d# * 2")),
    "configuration sum": ("c.yaml", CONFIG, lambda size: dims(min(60, size), "d# + d#")),
    "configuration nesting": ("c.yaml", CONFIG, lambda size: "num_hidden_layers: " + "[" * size),
    "configuration laughs": ("c.yaml", CONFIG, lambda size: laughs(min(size, 40))),
    "configuration list": ("c.yaml", CONFIG, lambda size: f"compress_ratios: [{', '.join(['4'] * size)}]\n"),
    "configuration text": ("c.yaml", CONFIG, lambda size: f"num_hidden_layers: {'1 + ' * size}1\n"),
    "deployments": ("c.yaml", CONFIG, lambda n: "deployments:\n" + "".join(f"  d{i}: {{batch: 1}}\n" for i in range(n))),
    "hugging face keys": (
        "config.json", ("config", "show", "--config", "config.json"),
        lambda size: json.dumps(keys(size)),
    ),
    "hugging face lines": (
        "config.json", ("config", "show", "--config", "config.json"),
        lambda size: json.dumps(keys(size), indent=1),
    ),
    "index": (
        "model.safetensors.index.json", ("checkpoint", "inspect", "."),
        lambda size: json.dumps({"weight_map": {f"layers.{i}.w": f"model-{i % 500}.safetensors" for i in range(size)}}),
    ),
    "routing": ("r.json", ("schedule", "decode_fwd", *TINY, "--routing", "r.json"), lambda size: f"[[{'1, ' * size}1]]"),
    "scope stats": ("s.jsonl", ("scope-stats", "show", "s.jsonl"), lambda size: '{"version": 6}\n' + "{}\n" * size),
}  # fmt: skip

FORMS = (*GRAPHS, *USES, *OTHERS)


def shape(name: str, size: int, rng: random.Random) -> Case:
    """A form grown to a size, at most 1 MiB in all, and one of the commands that read it."""
    while True:
        if name in OTHERS:
            file, command, text = OTHERS[name]
            files = {file: text(size)}
        else:
            command = rng.choice(GRAPH_COMMANDS)
            files = {"g.yaml": GRAPHS[name](size)} if name in GRAPHS else USES[name](size)
        if sum(map(len, files.values())) <= MOST_BYTES or size < 2:
            return Case(f"{name} x {size}", {file: text.encode() for file, text in files.items()}, command)
        size = size * 9 // 10


# --- mutants ------------------------------------------------------------------------------------------------------------

NUMBERS = ("1e400", "-1e400", "9" * 5000, "Infinity", "NaN", "9" * 25, "-1", "0", "1000000000000")
PIECES = (
    *NUMBERS,
    *'[]{}",:-#|>',
    "\\",
    "&a ",
    "*a",
    "0x_",
    "\x00",
    "\ud7ff",
    "",
    "\t",
    "  ",
    "\n- ",
    "!!str ",
    "? ",
    "[/a]",
    "'",
    "x[0]",
)


def mutated(text: str, rng: random.Random) -> bytes:
    """One to three pieces put in, cut out, doubled or replaced, and sometimes a byte that is no UTF-8."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice((*PIECES, text[at : at + 30] * 2)) + text[at + rng.choice((0, 1, 12)) :]
    data = text.encode("utf-8", "surrogatepass")
    return data[: len(data) // 2] + b"\xff" + data[len(data) // 2 :] if rng.random() < 0.05 else data


def valid(checkpoint: Path) -> list[tuple[str, dict[str, bytes], tuple[str, ...]]]:
    """Files as they should be: the one that is mutated, all of them, and a command."""
    found: list[tuple[str, dict[str, bytes], tuple[str, ...]]] = []
    for path in sorted((ROOT / "graphs" / "deepseek_v4").glob("*.yaml")):
        found += [("g.yaml", {"g.yaml": path.read_bytes()}, command) for command in GRAPH_COMMANDS]
    for path in sorted((ROOT / "graphs" / "config").glob("*.yaml")):
        found.append(("c.yaml", {"c.yaml": path.read_bytes()}, CONFIG))
        found.append(("c.yaml", {"c.yaml": path.read_bytes()}, ("schedule", "head", "--config", "c.yaml")))
    for path in sorted((DATA / "conformance").rglob("*.json")):
        found.append(("p.json", {"p.json": path.read_bytes()}, REPLAY))
    model = {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.is_file()}
    for name in model:
        found += [(name, model, ("checkpoint", "inspect", "."))] * 3
    found += [("config.json", {"config.json": model["config.json"]}, ("config", "show", "--config", "config.json"))] * 5
    return found


def mutant(known: list[tuple[str, dict[str, bytes], tuple[str, ...]]], number: int, rng: random.Random) -> Case:
    name, files, command = known[number % len(known)]
    data = files[name]
    text = data.decode("latin-1") if name.endswith(".safetensors") else data.decode()
    if name.endswith(".safetensors"):
        text = mutated(text[:4000], rng).decode("latin-1") + text[4000:]
        return Case(f"{name} {number}", files | {name: text.encode("latin-1")}, command)
    return Case(f"{name} {number}", files | {name: mutated(text, rng)}, command)
