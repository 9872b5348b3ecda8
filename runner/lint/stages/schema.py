"""`runner.language` finds these codes of stage 2 while it checks a file's structure and parses its texts."""

from runner.lint.rule import Description

DESCRIPTIONS = (
    Description(
        "G201", "value of the wrong kind", "The schema expects another kind of value here (text, a number, a list, a mapping)."
    ),
    Description("G202", "missing key", "The schema requires this key."),
    Description("G203", "value out of range", "The value is of the right kind but not one that is allowed here."),
    Description(
        "G204", "item without a meaning", "An item of a body is exactly one of op, alloc, scope, for, if, switch and use."
    ),
    Description(
        "G205",
        "name taken twice",
        "Inputs, weights, state and outputs share one set of names, and the ids of one body must differ.",
    ),
    Description(
        "G210",
        "expression that cannot be parsed",
        "Expressions are arithmetic over names, comparisons, and/or/not, `a if c else b`, indexing, and ceil, floor, min "
        "and max; nothing else.",
    ),
    Description("G211", "not a tensor type", "A tensor's type is a dtype or `{parameter}` followed by its dims in brackets."),
    Description(
        "G212", "not a tensor or a part of one", "A region is a name, a slice `x[3]`, `x[:, a : b]`, or a part `x{e, t}`."
    ),
)
