"""Signatures and the table of ops."""

import re

import pytest

from runner.base.errors import RinggraphError
from runner.program.ops import Operand, OpRegistry, parse_signature


def test_a_signature_lists_operands_in_order():
    assert parse_signature("x: {act}[T, D], w?: f32|bf16[H * 2, ...] -> y: f32[max(T, 2)], &s: i32[]") == (
        Operand("x", "{act}", ("T", "D"), "in"),
        Operand("w", "f32|bf16", ("H * 2", "..."), "in", optional=True),
        Operand("y", "f32", ("max(T, 2)",), "out"),
        Operand("s", "i32", (), "inout"),
    )


def test_a_signature_prints_as_it_was_written():
    registry = OpRegistry()
    text = "x: {act}[T, D], w?: f32[D] -> y: f32[T], &s: i32[N]"
    registry.op("demo", text, core="AIV")(lambda **operands: None)
    assert registry["demo"].signature == text


MALFORMED = [
    "x: f32[T]",
    "x f32[T] -> y: f32[T]",
    "x: f32 -> y: f32[T]",
    "x: f32[T] -> x: f32[T]",
    "x: f32[T] -> y: f32[T +]",
    "x: f32[T] -> y: f32[T D]",
    "x: [T] -> y: f32[T]",
    "x: {act[T] -> y: f32[T]",
    "2x: f32[T] -> y: f32[T]",
    "x: f32[T] -> y: f32[T",
    ": f32[T] -> y: f32[T]",
]


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_signature_is_refused(text):
    with pytest.raises(ValueError):
        parse_signature(text)


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_signature_names_its_op_and_its_place(text):
    def run(**operands):
        pass

    line = run.__code__.co_firstlineno
    with pytest.raises(RinggraphError, match=re.escape(f"{__file__}:{line}: op 'demo': ")):
        OpRegistry().op("demo", text, core="AIV")(run)


def test_a_name_can_be_taken_once():
    registry = OpRegistry()
    registry.op("demo", "x: f32[T] -> y: f32[T]", core="AIV")(lambda **operands: None)
    with pytest.raises(RinggraphError, match="op 'demo' is registered twice"):
        registry.op("demo", "x: f32[T] -> y: f32[T]", core="AIV")(lambda **operands: None)


def test_an_unknown_core_is_refused():
    with pytest.raises(RinggraphError, match="core is 'GPU', expected one of AIC, AIV, MIX"):
        OpRegistry().op("demo", "x: f32[T] -> y: f32[T]", core="GPU")(lambda **operands: None)
