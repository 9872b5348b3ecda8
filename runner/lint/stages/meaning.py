"""Expansion and `ignores` find these codes of stage 3; those that a rule finds stand with that rule, in `runner/lint/rules/`."""

from runner.lint.rule import Description

DESCRIPTIONS = (
    Description(
        "G301",
        "unknown name in an expression",
        "It is no field or dim of the configuration, no param of the graph and no loop variable.",
    ),
    Description("G302", "unknown op", "No registered op has this name; `ringgraph ops list` lists them."),
    Description(
        "G303",
        "type mismatch",
        "Shape and dtype must fit the op's signature, or the input or output of the used graph, under this configuration.",
    ),
    Description("G304", "missing operand", "The op needs this operand."),
    Description("G305", "operand that the op does not have", "The op's signature has no such input or output."),
    Description("G306", "unknown tensor", "No tensor of this name is visible here."),
    Description("G307", "region outside its tensor", "The indices do not fit the tensor's shape under this configuration."),
    Description(
        "G308",
        "wrong binding of a used graph",
        "A `use` must give every param, input and output, by `with:` or by a tensor of the same name.",
    ),
    Description("G309", "graph that uses itself", "Graphs are spliced in, so a cycle would never end."),
    Description(
        "G310",
        "expression without a usable value",
        "It divides by zero, is not a whole number, is negative, or mixes numbers and text.",
    ),
    Description("G311", "unknown graph", "`use: NAME` looks for NAME.yaml beside this file, then among the shipped graphs."),
    Description(
        "G315",
        "read after its scope closed",
        "A scope's tensors are released when it closes; their memory may already be someone else's.",
    ),
    Description(
        "G321",
        "unknown id in after",
        "`after` names ids of items in the same body or in a body around it; ids inside scopes and loops are dotted.",
    ),
    Description(
        "G322",
        "wrong parameter of an op",
        "The op has no such param, or the param has neither a value here nor in the configuration.",
    ),
    Description(
        "G338",
        "view that cannot be",
        "A view has all the bytes of what it shows, where they lie: another shape or dtype of them, and nothing is moved.",
    ),
    Description("G323", "op's own rule broken", "The op checks what its signature cannot say, and refuses this call."),
    Description("G324", "one source, two types", "The same tensor of the checkpoint or state is declared with different types."),
    Description(
        "G325",
        "wrong carry",
        "After each trip the name on the left stands for that trip's tensor on the right, which must have the same type.",
    ),
    Description(
        "G326", "dynamic loop without a usable bound", "A loop whose range reads a tensor needs `max`, and reads single elements."
    ),
    Description("G327", "unknown dtype", "It is neither a dtype nor a dtype parameter of the configuration."),
    Description(
        "G329",
        "program too large",
        "A range or a graph used very often makes more than expansion takes on; RINGGRAPH_LIMITS says how much that is.",
    ),
    Description("G330", "switch without a case", "No case has the value, and there is no default."),
    Description(
        "G331",
        "ignore without effect",
        "The comment accepts a finding that is not there, names no code that exists and can be accepted, or is the second on its "
        "line. It misleads who reads it, and may hide a finding that comes later.",
        "warning",
    ),
    Description(
        "G336",
        "mode that does not fit",
        "`existing` is for an output that gets an existing tensor and is not read, `no_dep` for any operand that gets one, "
        "`manual_dep` for an output that creates a tensor. A value that a loop reads has a writer that the runtime knows.",
    ),
    Description(
        "G340",
        "unknown name in share",
        "`share:` lists tensors that the graph makes, ids of graphs that it uses which share too, entries of their lists, and "
        "groups of them; what an entry replaces or keeps apart from stands in the same list, and copies count trips of loops of "
        "the graph. A ring holds tensors.",
    ),
    Description(
        "G339",
        "shared bytes still in use",
        "A tensor takes the bytes of another only when that has been touched for the last time; trips of a loop, and uses of a "
        "graph, that are in use at once need copies, or a ring that is large enough.",
    ),
)
