"""What an editor shows of the thing under the pointer: of an item what `explain` says, of a name what it stands for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

from runner.base.errors import Mark, RinggraphError
from runner.base.units import human_bytes
from runner.editor.reading import names, nodes
from runner.editor.reading.symbols import TENSORS, Occurrence, Symbol
from runner.editor.reading.text import Place, Text
from runner.editor.workspace import Workspace
from runner.language.structure import schema
from runner.lint.codes import RULES, explain_rule
from runner.program.ops import OpDef
from runner.program.program import Program, Task
from runner.report.explain import Explanation, explain, operand_text


def hover(workspace: Workspace, path: str, offset: int) -> tuple[str, Place] | None:
    """Markdown, and the text that it is about."""
    text, tree = workspace.text(path), workspace.tree(path)
    if text is None or tree is None:
        return None
    code = text.value[slice(*text.word(offset))]
    if code in RULES and "#" in text.around(offset):
        return _block(explain_rule(code)), Place(path, *text.word(offset))
    if not workspace.is_graph(os.path.realpath(path)):
        return _field(workspace, path, text, offset)
    way = nodes.way_to(tree[0], text, offset)
    index = workspace.index(path)
    found = index.at(offset) if index is not None else None
    parts = [*_node_parts(workspace, path, way, found)]
    if found is not None:
        said = bool(parts) and found.symbol.kind == "op"  # `explain` has its doc
        parts += [part.partition("\n\n")[0] if said else part for part in _symbol_parts(workspace, path, found)]
        parts += _shared_parts(workspace, path, way, found)
    parts = parts or [*_key_parts(way)]
    if not parts:
        return None
    where = (found.start, found.end) if found is not None else text.word(offset)
    return "\n\n".join(dict.fromkeys(parts)), Place(path, *where)


def _key_parts(way: list[nodes.Step]) -> Iterator[str]:
    """What the schema says of a key."""
    keys, rules = nodes.names_on(way), schema()["definitions"]
    if not way[-1].in_key:
        return
    item, properties = nodes.item_on(way), {}
    if len(keys) == 1:
        properties = schema()["properties"]
    elif item is not None and way[-2].node is item:
        properties = rules[nodes.keyword_of(item)]["properties"]
    elif keys[0] in names.SECTIONS and len(keys) == 3:
        properties = rules["declaration"]["properties"]
    elif keys[0] == "share" and keys[-2] not in ("", "copies", "share"):
        properties = rules["placed"]["properties"]
    rule = properties.get(keys[-1], {})
    rule = rules.get(rule.get("$ref", "").rpartition("/")[2], {}) | rule
    if described := rule.get("description"):
        yield f"`{keys[-1]}`: {described}"


def _block(text: str) -> str:
    return f"```text\n{text}\n```"


def task_at(workspace: Workspace, path: str, mark: Mark) -> tuple[str, Program, Task] | None:
    """The first task that an item of a file makes, in that file's own program, else in one of another open graph that uses it;
    before it the program and the path of its graph."""
    real = os.path.realpath(path)
    others = [other for other in workspace.open if other != real and workspace.is_graph(other) and real in workspace.used(other)]
    for root in (path, *(workspace.open[other].file for other in others)):
        program = workspace.program(root)
        if isinstance(program, RinggraphError):
            continue
        for task in program.tasks:
            at = task.mark
            if at is not None and (at.line, at.column) == (mark.line, mark.column) and os.path.realpath(at.file) == real:
                return root, program, task
    return None


def explained(workspace: Workspace, path: str, mark: Mark) -> Explanation | None:
    """What `ringgraph explain` says of the first task that an item makes."""
    found = task_at(workspace, path, mark)
    if found is None:
        return None
    root, program, task = found
    return explain(program, workspace.registry(path), task.path, partial(workspace.texts, root))


def _node_parts(workspace: Workspace, path: str, way: list[nodes.Step], found: Occurrence | None) -> Iterator[str]:
    """What is said of the item that the place lies in: all of it, or the operand that is meant."""
    item, keys = nodes.item_on(way), nodes.names_on(way)
    if item is None:
        return
    keyword = nodes.keyword_of(item)
    at = next(number for number, step in enumerate(way) if step.node is item)
    inside = keys[at:]
    if keyword in ("scope", "for", "use", "if", "switch"):
        if len(inside) == 1:
            yield from _span_parts(workspace, path, item)
        return
    if keyword == "op" and len(inside) == 2 and inside[0] in ("in", "out"):
        explanation = explained(workspace, path, item.mark)
        use = next((use for use in explanation.operands if use.name == inside[1]), None) if explanation else None
        if use is not None:
            yield _block("\n".join(line.removeprefix("  ") for line in operand_text(use)))
        return
    if len(inside) <= 1 or keyword == "alloc":
        explanation = explained(workspace, path, item.mark)
        if explanation is not None:
            yield _block(str(explanation))


def _span_parts(workspace: Workspace, path: str, item: nodes.Node) -> Iterator[str]:
    """A scope, loop or used graph: how many tasks, and what they allocate."""
    from runner.program.spans import spans_of

    program = workspace.program(path)
    if isinstance(program, RinggraphError):
        return
    real = os.path.realpath(path)
    for span in spans_of(program.body):
        at = span.mark
        if at is None or not span.path or (at.line, at.column) != (item.mark.line, item.mark.column):
            continue
        if os.path.realpath(at.file) == real and span.kind in ("scope", "for", "dynamic", "use", "if"):
            yield _block(str(explain(program, workspace.registry(path), span.path)))
            return


def _symbol_parts(workspace: Workspace, path: str, found: Occurrence) -> Iterator[str]:
    symbol = found.symbol
    registry = workspace.registry(path)
    match symbol.kind:
        case "op":
            definition = registry.get(symbol.name)
            if definition is not None:
                yield op_text(definition)
        case "operand" | "attr":
            definition = registry.get(symbol.key[1])
            if definition is not None:
                yield from _operand(definition, symbol.name)
        case "value" | "param" | "variable" | "dtype":
            yield from value_parts(workspace, path, symbol)
        case "graph" | "member":
            yield from _graph_parts(workspace, symbol)
        case kind if kind in TENSORS:
            yield tensor_text(workspace, path, symbol)


def _shared_parts(workspace: Workspace, path: str, way: list[nodes.Step], found: Occurrence) -> Iterator[str]:
    """What lists of shared bytes mean for what is named; in a list, the name with dots that it may be part of."""
    from runner.editor.shared_bytes import shared_text  # which needs numpy

    key, last = found.symbol.key, way[-1]
    node = last.key if last.in_key else last.node
    asked = [(key[1], key[2])] if key[0] == "shared" else []
    if nodes.names_on(way)[:1] == ["share"] and node is not None and node.kind == "text" and (not asked or "." in node.value):
        asked.insert(0, (os.path.realpath(path), node.value))  # as it applies here, before what a used graph says of itself
    texts = (shared_text(workspace, path, file, name) for file, name in asked)
    yield from (_block(text) for text in [text for text in texts if text][:1])


def op_text(definition: OpDef) -> str:
    """An op's signature and doc."""
    params = ", ".join(f"{name}={default}" for name, default in definition.params.items())
    rest = f"\nparams: {params}" if params else ""
    return f"{_block(f'{definition.name} ({definition.core}): {definition.signature}{rest}')}\n\n{definition.doc.strip()}"


def _operand(definition: OpDef, name: str) -> Iterator[str]:
    for operand in definition.operands:
        if operand.name == name:
            yield _block(f"{operand.mode} {operand}")
    if name in definition.params:
        default = definition.params[name]
        said = f"the configuration's '{default}'" if isinstance(default, str) else repr(default)
        yield f"param of `{definition.name}`, by default {said}"


def value_parts(workspace: Workspace, path: str, symbol: Symbol) -> Iterator[str]:
    """What a name in an expression, or a dtype parameter, stands for."""
    config = workspace.config(path)
    if symbol.kind == "param":
        yield f"param `{symbol.name}`, `{symbol.spec}` when the graph runs alone"
    elif symbol.kind == "variable":
        yield f"variable of the loop `{symbol.name}`"
    elif config is not None and symbol.kind == "dtype" and symbol.name in config.dtypes:
        yield f"`{{{symbol.name}}}` is `{config.dtypes[symbol.name]}` under {config.name}"
    elif config is not None and symbol.kind == "value" and symbol.name in config.values:
        origin = config.origin(symbol.name)
        where = f" ({origin})" if origin else ""
        yield f"`{symbol.name}` = `{config.values[symbol.name]}` under {config.name}{where}"
        if doc := field_doc(workspace, path, symbol.name):
            yield doc


def field_doc(workspace: Workspace, path: str, name: str) -> str:
    """What a field of the configuration is for."""
    config = workspace.config(path)
    rule = config.family.fields().get(name) if config is not None else None
    return str(rule.get("description", "")) if rule is not None else ""


def _graph_parts(workspace: Workspace, symbol: Symbol) -> Iterator[str]:
    file = symbol.key[1]
    tree = workspace.tree(file)
    if tree is None:
        return
    if symbol.kind == "member":
        face = names.interface(tree[0], file)
        for section, found in face.sections.items():
            if symbol.name in found:
                yield f"{section} of `{os.path.basename(file)}`: `{symbol.name}: {found[symbol.name]}`"
        return
    doc = tree[0].get("doc")
    name = tree[0].get("graph")
    said = f"graph `{name.value}`" if name is not None and name.kind == "text" else "graph"
    yield f"{said}, `{file}`" + (f"\n\n{doc.value}" if doc is not None and doc.kind == "text" else "")


def tensor_text(workspace: Workspace, path: str, symbol: Symbol) -> str:
    """A tensor's declaration, and its shape and bytes under the configuration."""
    spec = spec_of(workspace, path, symbol.spec)
    size = f" = `{spec}`, {human_bytes(spec.size_bytes)}" if spec is not None else ""
    return f"{symbol.kind} `{symbol.name}: {symbol.spec}`{size}"


def spec_of(workspace: Workspace, path: str, written: str, values: dict[str, Any] | None = None):
    """A type as written under the configuration of a file, whose params have their defaults; None where that has no value."""
    from runner.base.tensor_spec import DTYPE_BYTES, TensorSpec
    from runner.language.graph import Text as Written
    from runner.language.notation import parse_type

    config = workspace.config(path)
    if config is None:
        return None
    known = param_values(workspace, path) if values is None else values
    try:
        kind = parse_type(Written(written, Mark(path, 1)))
        dtype = config.dtypes.get(kind.dtype) if kind.is_param else kind.dtype
        dims = tuple(dim.integer(known.__getitem__) for dim in kind.dims)
    except RinggraphError:
        return None
    return TensorSpec(dtype, dims) if dtype in DTYPE_BYTES and all(dim >= 0 for dim in dims) else None


def param_values(workspace: Workspace, path: str) -> dict[str, Any]:
    """The configuration's values, and those of a graph's params when it runs alone."""
    from runner.language.expressions import parse

    config, tree = workspace.config(path), workspace.tree(path)
    found = dict(config.values) if config is not None else {}
    given = found.copy()
    params = tree[0].get("params") if tree is not None else None
    for key, value in params.value if params is not None and params.kind == "map" else ():
        found.pop(key.value, None)
        try:
            found[key.value] = parse(value.value if value.kind == "text" else "").integer(given.__getitem__)
        except RinggraphError:
            continue
    return found


def _field(workspace: Workspace, path: str, text: Text, offset: int) -> tuple[str, Place] | None:
    """A key of a layer of a configuration."""
    start, end = text.word(offset)
    name = text.value[start:end]
    if os.path.realpath(path) not in workspace.kinds or not name:
        return None
    from runner.editor.fields import field_rules

    rule = field_rules(workspace, path).get(name)
    described = str(rule.get("description", "")) if rule is not None else ""
    return (f"`{name}`: {described}", Place(path, start, end)) if described else None
