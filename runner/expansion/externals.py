"""Tensors from outside a graph: inputs, weights, state and outputs of the program, and what a `use` binds them to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from runner.base.errors import GraphError, did_you_mean
from runner.expansion.builder import ProgramBuilder
from runner.expansion.calls import OpCompiler
from runner.expansion.names import Context, Frame, Resolved, View
from runner.language.expressions import ExprError, parse
from runner.language.graph import Declaration, Graph, Text, Use
from runner.language.notation import parse_region, parse_type

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
QUANTISED = "wq"
"""The dtype parameter whose weights bring a scale with them."""


class Externals:
    """The external tensors of one expansion: one per kind and source, whoever uses it."""

    def __init__(self, builder: ProgramBuilder, ops: OpCompiler):
        self.builder = builder
        self.ops = ops
        self.known: dict[tuple[str, str], View] = {}

    def declare(self, declarations: Mapping[str, Declaration], kind: str, context: Context, frame: Frame) -> None:
        """Names external tensors in `frame`; weights and states are made when they are first used."""
        for name, declared in declarations.items():
            parsed = parse_type(declared.spec)
            spec = self.builder.spec(parsed, context, name)
            if spec is None:
                continue
            source = self.source(declared, context, False)
            frame.unused[name] = partial(self.resolve, Resolved(kind, name, source, spec, declared, False, context))
            if kind == "weight" and parsed.is_param and parsed.dtype == QUANTISED:
                scale, name = self.builder.intern("f32", spec.shape[:-1]), f"{name}_scale"
                source = self.source(declared, context, True)
                frame.unused[name] = partial(self.resolve, Resolved(kind, name, source, scale, declared, True, context))

    def resolve(self, first: Resolved) -> View:
        """The tensor that a name stands for when it is used first."""
        at, key = len(self.builder.tensors), (first.kind, first.source)
        view = self.known.get(key)
        if view is None:
            view = self.known[key] = self.made(first)
        elif view.spec is not first.spec:
            other = self.builder.tensors[view.tensor].mark
            message = f"{first.kind} '{first.source}' is {first.spec} here, but {view.spec} in {other}"
            self.builder.report("G324", message, first.declared.spec.mark)
            view = self.made(first)
        self.builder.externals.append(replace(first, tensor=view.tensor, at=at))
        return view

    def made(self, first: Resolved) -> View:
        return self.builder.external(first.declared, first.name, first.spec, first.kind, first.source)

    def source(self, declared: Declaration, context: Context, is_scale: bool) -> str:
        """What the tensor, or its scale, is called outside: with the placeholders filled in, except the one that is stacked."""
        name = self.filled(declared, context)
        return scale_source(name) if is_scale else name

    def filled(self, declared: Declaration, context: Context) -> str:
        text = declared.source
        if text is None:
            return declared.name

        def fill(match: re.Match[str]) -> str:
            if match[1].strip() == declared.stack:
                return match[0]
            mark = text.mark.moved(match.start(1))
            try:
                return str(parse(match[1], mark).evaluate(context.values.__getitem__))
            except ExprError as error:
                self.builder.report_error(error, list(context.values))
                return match[0]

        return _PLACEHOLDER.sub(fill, text.value)

    # --- use ---

    def bind(self, item: Use, graph: Graph, frame: Frame, context: Context, prefix: str) -> tuple[Frame, Context]:
        """Names and values inside a used graph."""
        values: dict[str, Any] = dict(self.builder.config.values)
        for name in graph.params:
            values[name] = self.param(item, name, context)
        inner, used = Frame(None, prefix, graph.body), Context(graph, values, context, item)
        known = {*graph.params, *graph.inputs, *graph.weights, *graph.state, *graph.outputs}
        for name, text in item.bindings.items():
            if name not in known:
                hint = did_you_mean(name, known, of_key=True)
                self.builder.report("G308", f"graph '{graph.name}' has no param, input or output '{name}'", text.mark, hint)
        for kind, declarations in (("input", graph.inputs), ("output", graph.outputs)):
            for declared in declarations.values():
                self.operand(item, kind, declared, frame, context, inner, used)
        for kind, declarations in (("weight", graph.weights), ("state", graph.state)):
            given = {name: declared for name, declared in declarations.items() if name in item.bindings}
            for declared in given.values():
                self.operand(item, kind, declared, frame, context, inner, used)
            self.declare({name: declared for name, declared in declarations.items() if name not in given}, kind, used, inner)
        return inner, used

    def param(self, item: Use, name: str, context: Context) -> int:
        """The value given, or that of the same name here."""
        text = item.bindings.get(name)
        if text is not None:
            return self.builder.integer(text, context)
        if name in context.values:
            return context.values[name]
        message = f"use '{item.graph}': param '{name}' is not given"
        self.builder.report("G308", message, item.mark, f"add 'with: {{{name}: ...}}'", name)
        return 0

    def operand(
        self, item: Use, kind: str, declared: Declaration, frame: Frame, context: Context, inner: Frame, used: Context
    ) -> None:
        """Binds one input or output to the tensor given, or to the one of the same name here."""
        text = item.bindings.get(declared.name)
        view = self.given(item, kind, declared.name, text, frame, context)
        spec = self.builder.spec(parse_type(declared.spec), used)
        if view is None:
            if spec is not None:  # go on with a tensor of the right type, so that one mistake is one finding
                inner.names[declared.name] = self.builder.external(declared, declared.name, spec, kind, declared.name)
            return
        inner.names[declared.name] = view
        if spec is not None and view.spec is not spec:
            message = f"use '{item.graph}': {kind} '{declared.name}' is {view.spec}, expected {spec}"
            self.builder.report("G303", message, text.mark if text else item.mark, about=declared.name)

    def given(self, item: Use, kind: str, name: str, text: Text | None, frame: Frame, context: Context) -> View | None:
        if text is None:
            view = frame.find(name)
            if view is None and not self.builder.is_untyped(name, context):
                message = f"use '{item.graph}': {kind} '{name}' is not given, and no tensor here has that name"
                self.builder.report("G308", message, item.mark, f"add 'with: {{{name}: ...}}'", name)
            return view
        try:
            ref = parse_region(text)
        except GraphError as error:
            self.builder.report_error(error)
            return None
        return self.ops.view(ref, frame, context)


def scale_source(source: str) -> str:
    """Where a quantised weight's scale is: `X.weight` has `X.scale`."""
    return f"{source.removesuffix('.weight')}.scale"
