"""Ops that are declared apart from their kernels: found when they first run, refused where they do not fit."""

import re
import sys
from types import ModuleType

import pytest

from ops import declaring_modules, register_all
from runner.base.errors import RinggraphError
from runner.program.ops import Kernel, OpRegistry, check_kernel

SIGNATURE = "x: f32[T], w?: f32[T] -> y: f32[T]"


@pytest.fixture
def kernels(monkeypatch):
    """A module of kernels that is imported like any other."""
    module = ModuleType("kernels_of_a_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def declared(name="demo", kernels="kernels_of_a_test", **fields):
    ops = OpRegistry(kernels=kernels)
    ops.declare(name, SIGNATURE, core="AIV", **fields)
    return ops[name]


def test_a_kernel_is_the_function_of_the_name(kernels):
    def demo(x, *, w=None, y, by):
        y[0] = by * x[0]

    kernels.demo = demo
    definition, y = declared(params={"by": 2}), [0]
    assert definition.run is demo
    definition.run(x=[3], w=None, y=y, by=2)
    assert y == [6]


def test_declaring_imports_nothing():
    definition = declared(kernels="no_such_module.kernels")
    assert definition.arguments == ("x", "w", "y") and "no_such_module" not in sys.modules
    with pytest.raises(RinggraphError, match=r"op 'demo': its kernels, 'no_such_module.kernels', cannot be imported: No module"):
        definition.run  # noqa: B018


def test_an_op_without_a_kernel_is_told(kernels):
    with pytest.raises(RinggraphError) as caught:
        declared("lost").run  # noqa: B018
    assert str(caught.value) == (
        "op 'lost' has no kernel: 'kernels_of_a_test' has no function 'lost'\nhint: write 'def lost(x, w, y)' there"
    )


UNFIT = [
    (lambda x, *, y: None, {}, "it does not take 'w'"),
    (lambda x, w, z, *, y: None, {}, "it wants 'z', which is no operand, parameter or need"),
    (lambda x, w, *, out: None, {}, "it does not take 'y'; it wants 'out', which is no operand, parameter or need"),
    (lambda x, w, *, y: None, {"params": {"eps": 1.0}}, "it does not take 'eps'"),
    (lambda x, w, *, y: None, {"needs": ("comm",)}, "it does not take 'comm'"),
    (lambda x, w, y, /: None, {}, "it does not take 'x'"),
]


@pytest.mark.parametrize("kernel, fields, problem", UNFIT)
def test_a_kernel_that_does_not_fit_is_refused_with_its_place(kernel, fields, problem, kernels):
    kernels.demo = kernel
    where = re.escape(f"{__file__}:{kernel.__code__.co_firstlineno}: the kernel of op 'demo' does not fit its declaration: ")
    with pytest.raises(RinggraphError, match=where + re.escape(problem)):
        declared(**fields, doc=str(id(kernel))).run  # noqa: B018
    with pytest.raises(RinggraphError, match=where + re.escape(problem)):
        OpRegistry().op("demo", SIGNATURE, core="AIV", **fields)(kernel)


def test_a_parameter_with_a_default_may_stay_out():
    check_kernel("demo", lambda x, *, y, scale=1.0, **rest: None, ("x", "w", "y"))


def test_a_declaration_needs_a_module_of_kernels():
    with pytest.raises(RinggraphError, match="op 'demo' is declared in a table that names no module of kernels"):
        OpRegistry().declare("demo", SIGNATURE, core="AIV")


def test_a_malformed_declaration_names_its_place():
    with pytest.raises(RinggraphError, match=re.escape(f"{__file__}:") + r"\d+: op 'demo': signature 'x: f32\[T\]' has no '->'"):
        OpRegistry(kernels="anything").declare("demo", "x: f32[T]", core="AIV")


def test_every_op_of_ours_has_a_kernel_that_fits():
    registry = OpRegistry()
    register_all(registry)
    ours = [name for name in registry if isinstance(registry[name].kernel, Kernel)]
    assert len(ours) > 90 and all(callable(registry[name].run) for name in ours)


def test_no_module_of_ours_declares_ops_beside_kernels():
    modules = declaring_modules()
    assert len(modules) > 10 and not [name for name in modules if ".kernels." in name]
