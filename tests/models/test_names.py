"""No generic module names anything of DeepSeek-V4: what stands in its own data stands nowhere else in code.

The names are collected from the family's data: fields of its schema (not those marked `x-machine`), dims of its base layer, ops
that `ops.deepseek_v4` registers, parts of the names of a checkpoint's tensors, graphs of `graphs/deepseek_v4`, and inputs and
outputs of those that run the whole model (`*_fwd`). What counts, in every module of runner, ops, schedulers and docs outside the
families' own folders:

- `deepseek`, in any case and also as a part of a word, in any identifier, string, docstring or comment;
- any name but the plain words below: as an identifier (variable, function, class, parameter, attribute, keyword, import), as a
  whole word in a string, and, with an underscore or at least five letters, as a whole word in a docstring or comment;
- one of the plain words (`PLAIN_WORDS`): as a whole string, and as a part of a dotted string (`embed.weight`, `.gate.bias`);
- a dim of one letter: as a constant in a subscript (`config["B"]`).

Words of the machine, which every family uses, do not count: keys of `graph.schema.json`, `scale`, kinds of cores, and the
identifiers of the door between machine and models (`runner/models/protocols.py`).
"""

import ast
import json
import re
import tokenize
from functools import cache
from io import StringIO

import pytest
from places import ROOT

from ops import register_all
from runner.config.config import load_config
from runner.language.library import load_graph
from runner.models.deepseek_v4 import FAMILY
from runner.program.ops import CORES, OpRegistry

OWN = ("runner/models/deepseek_v4/", "ops/deepseek_v4/", "ops/kernels/deepseek_v4/", "docs/examples/gru_family/")
"""Folders of a family's own: the last is another family, whose tensors may have a `bias` too."""
SOURCES = [
    path.relative_to(ROOT).as_posix()
    for package in ("runner", "ops", "schedulers", "docs")
    for path in sorted((ROOT / package).rglob("*.py"))
    if not path.relative_to(ROOT).as_posix().startswith(OWN)
]

PLAIN_WORDS = frozenset(
    [
        "ape",
        "bias",
        "chunked",
        "compressor",
        "dispatch",
        "embed",
        "experts",
        "gate",
        "head",
        "indexer",
        "layers",
        "logits",
        "norm",
        "precision",
        "rope",
    ]
)
"""Names that are words of plain English, or of any text about language models."""


@cache
def names() -> frozenset[str]:
    """Every name of DeepSeek-V4 that is not the machine's too, but `deepseek` itself."""
    return all_names() - machine()


@cache
def all_names() -> frozenset[str]:
    config = load_config(["tiny"])
    registry = OpRegistry()
    register_all(registry)
    fields = {name for name, rule in FAMILY.fields().items() if not rule.get("x-machine")}
    dims = set(config.values) - set(config.fields)
    ops = {name for name in registry if registry[name].run.__module__.startswith("ops.kernels.deepseek_v4.")}
    tensors = {part for name in FAMILY.layout.expected(config.values) for part in name.split(".") if not part.isdigit()}
    graphs = {path.stem for path in (ROOT / "graphs" / "deepseek_v4").glob("*.yaml")}
    whole = [load_graph(path) for path in (ROOT / "graphs" / "deepseek_v4").glob("*_fwd.yaml")]
    externals = {name for graph in whole for name in (*graph.inputs, *graph.outputs)}
    return frozenset(fields | dims | ops | tensors | graphs | externals)


COMMON = ("ops/common/", "ops/kernels/common/")
"""Ops of several families: they may use the names that all of these have, and short ones for operands and dims."""
OPERANDS = frozenset(["attn", "rope", "w1", "w2", "G"])


@cache
def shared() -> frozenset[str]:
    """Names that Qwen3 has too: fields, dims, inputs and outputs of its graphs, parts of its tensors' names."""
    config = load_config(["qwen3-tiny"])
    whole = [load_graph(path) for path in (ROOT / "graphs" / "qwen3").glob("qwen3_*.yaml")]
    externals = {name for graph in whole for name in (*graph.inputs, *graph.outputs)}
    tensors = {part for name in config.family.layout.expected(config.values) for part in name.split(".")}
    return frozenset({*config.values, *externals, *tensors}) | OPERANDS


@cache
def machine() -> frozenset[str]:
    """Words that every family uses."""
    schema = json.loads((ROOT / "graphs" / "schema" / "graph.schema.json").read_text(encoding="utf-8"))
    found = {"scale", *CORES}

    def collect(node):
        if isinstance(node, dict):
            found.update(node.get("properties", {}))
            for value in node.values():
                collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    collect(schema)
    door = ast.parse((ROOT / "runner" / "models" / "protocols.py").read_text(encoding="utf-8"))
    found |= {name for node in ast.walk(door) for name in identifiers(node)}
    return frozenset(found | {word.removesuffix("s") for word in found})


@cache
def marked():
    """Names that are nothing else."""
    return frozenset(name for name in names() - PLAIN_WORDS if len(name) > 1)


@cache
def letters():
    return frozenset(name for name in names() if len(name) == 1)


def in_string(text):
    found = {word for word in re.findall(r"\w+", text) if word in marked()}
    if text in PLAIN_WORDS & names():
        found.add(text)
    elif re.fullmatch(r"[\w{}]*(\.[\w{}]+)+", text):
        found |= set(text.split(".")) & PLAIN_WORDS & names()
    return found


def in_prose(text):
    return {word for word in re.findall(r"\w+", text) if word in marked() and ("_" in word or len(word) >= 5)}


def docstrings(tree):
    """Constants that are text for readers: strings that stand as statements."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}


def identifiers(node):
    """Names that a node of the syntax tree spells out."""
    for attribute in ("id", "name", "attr", "arg", "asname", "module", "rest"):
        value = getattr(node, attribute, None)
        if isinstance(value, str):
            yield from value.split(".")
    if isinstance(node, ast.Global | ast.Nonlocal):
        yield from node.names
    if isinstance(node, ast.MatchClass):
        yield from node.kwd_attrs


def found_in(source):
    """(line, name) of all that counts in the text of a module."""
    tree = ast.parse(source)
    prose = docstrings(tree)
    found = set()
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 1)
        texts = list(identifiers(node))
        found |= {(line, name) for name in texts if name in marked()}
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
            found |= {(line, name) for name in (in_prose if id(node) in prose else in_string)(node.value)}
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and node.slice.value in letters():
            found.add((line, node.slice.value))
        found |= {(line, "deepseek") for text in texts if "deepseek" in text.lower()}
    may_count = in_prose(source) or "deepseek" in source.lower()  # comments stand in the text as they are
    for token in tokenize.generate_tokens(StringIO(source).readline) if may_count else ():
        if token.type == tokenize.COMMENT:
            found |= {(token.start[0], name) for name in in_prose(token.string)}
            found |= {(token.start[0], "deepseek")} if "deepseek" in token.string.lower() else set()
    return sorted(found)


@pytest.mark.parametrize("module", SOURCES)
def test_no_generic_module_names_a_model(module):
    allowed = shared() if module.startswith(COMMON) else frozenset()
    found = found_in((ROOT / module).read_text(encoding="utf-8"))
    assert [(line, name) for line, name in found if name not in allowed] == []


def test_the_folders_were_read():
    assert len(SOURCES) > 100


def test_the_names_are_there():
    assert {"hidden_size", "layer_types", "recv_layout", "TOPK", "RECV_MAX"} <= names()
    assert {"dispatch", "route_hash", "tid2eid", "moe", "position_ids", "logits"} <= all_names()
    assert not {"ep", "dtype", "batch", "deploy", "x-section", "dims"} & names()
    assert {"B", "S", "T", "V"} <= letters()
    assert all_names() >= PLAIN_WORDS and not {"weight", "for", "op", "MIX"} & names()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("x = config['hidden_size']", "hidden_size"),
        ("def f(hidden_size): pass", "hidden_size"),
        ("x = config.hidden_size", "hidden_size"),
        ("f(hidden_size=3)", "hidden_size"),
        ("RECV_MAX = 3", "RECV_MAX"),
        ("import prefill_fwd as p", "prefill_fwd"),
        ("x = f'set {n} to recv_layout=padded'", "recv_layout"),
        ("x = name.endswith('.tid2eid')", "tid2eid"),
        ("x = 'embed.weight'", "embed"),
        ("moe = 3", "moe"),
        ("x = 1  # as RECV_MAX says", "RECV_MAX"),
        ("x = inputs['position_ids']", "position_ids"),
        ("if op == 'dispatch': pass", "dispatch"),
        ("x = config['B']", "B"),
        ("x = DeepseekV4Config", "deepseek"),
        ("'''As DeepSeek-V4 has it.'''", "deepseek"),
        ("'''Reads hidden_size.'''", "hidden_size"),
        ("'''Reads `RECV_MAX`.'''", "RECV_MAX"),
        ("def f():\n    '''As many as REQUESTS.'''", "REQUESTS"),
    ],
)
def test_what_counts(source, name):
    assert name in {found for _, found in found_in(source)}


@pytest.mark.parametrize(
    "source",
    [
        "x = 'weight'",
        "gate = 3; head = 4",
        "x = 'dispatch of a task'",
        "T = TypeVar('T')",
        "x: 'f32[T, D]' = spec",
        "'''The head of a list, the gate, and norm.'''",
        "'''`EP` ranks.'''",
        "x = 'X.weight'",
        "x = config['ep']",
    ],
)
def test_what_does_not_count(source):
    assert found_in(source) == []
