"""`--ops FILE.py`: ops without installing anything, in every command; what is wrong with a file is told by its place."""

import json

import pytest

from runner.base.errors import ConfigError
from runner.driver.face import Driver
from runner.program.op_files import ops_of_files

GRAPH = """
graph: doubling
inputs: {x: "f32[n]"}
outputs: {y: "f32[n]"}
body:
  - op: doubled
    in: {x: x}
    out: {y: y}
"""
LAYER = "fields: {n: {type: integer, default: 4}}\n"
DECLARED = """from runner import OpRegistry

ops = OpRegistry(kernels={kernels})
ops.declare('doubled', 'x: f32[N] -> y: f32[N]', core='AIV')
"""
KERNEL = "\n\ndef doubled(x, *, y):\n    import torch\n    torch.mul(x, 2, out=y)\n"
DECORATED = """
from runner import OpRegistry


def register(registry):
    @registry.op("doubled", "x: f32[N] -> y: f32[N]", core="AIV")
    def doubled(x, *, y):
        y.copy_(x + x)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "doubling.yaml").write_text(GRAPH)
    (tmp_path / "layer.yaml").write_text(LAYER)
    return tmp_path


def written(folder, text, name="some_ops.py"):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def beside(folder):
    written(folder, KERNEL, "some_kernels.py")
    return written(folder, DECLARED.format(kernels="'some_kernels'"))


FORMS = {
    "beside": beside,
    "itself": lambda folder: written(folder, DECLARED.format(kernels="__name__") + KERNEL),
    "register": lambda folder: written(folder, DECORATED),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_command_that_reads_a_graph_takes_them(form, folder, call):
    graph, given = folder / "doubling.yaml", ("--config", folder / "layer.yaml", "--ops", form(folder))
    for command in ("lint", "schedule", "size", "dot", "frontier", "run"):
        status, _, err = call(command, graph, *given)
        assert status == 0, err
    assert call("explain", graph, "doubled", *given)[0] == 0
    assert call("schedule-diff", graph, f"{graph}:minpeak", *given)[0] == 0
    status, out, _ = call("ops", "show", "doubled", "--ops", given[-1], "--json")
    assert status == 0 and json.loads(out)["signature"] == "x: f32[N] -> y: f32[N]"
    assert "doubled" in call("ops", "list", "--ops", given[-1])[1]


def test_a_layer_names_them_from_its_own_folder(folder, call):
    beside(folder)
    layer = written(folder, "ops: some_ops.py\n" + LAYER, "named.yaml")
    for command in ("lint", "schedule", "run"):
        status, _, err = call(command, folder / "doubling.yaml", "--config", layer)
        assert status == 0, err
    layer.write_text("ops: 3\n" + LAYER)
    status, _, err = call("schedule", folder / "doubling.yaml", "--config", layer)
    assert status and "named.yaml:1:1: error C102: 'ops' is 3 (an integer), expected a Python file or a list of them" in err
    status, _, err = call("lint", folder / "doubling.yaml", "--config", folder / "layer.yaml", "--set", "ops=some_ops.py")
    assert status == 2 and "'ops' cannot be set by an option, but by a layer" in err


def test_an_op_of_no_file_is_unknown(folder, call):
    status, out, _ = call("lint", folder / "doubling.yaml", "--config", folder / "layer.yaml")
    assert (
        status == 1
        and "unknown op 'doubled'" in out
        and "hint: 'ringgraph ops list' lists them; --ops FILE.py brings those of a file" in out
    )


WRONG = {
    "x = (\n": "{file}:1:5: error C107: not Python: '(' was never closed",
    "a = 1\nimport nowhere_at_all\n": "{file}:2:1: error C107: the file cannot be run: ModuleNotFoundError: No module named"
    " 'nowhere_at_all'\nimport nowhere_at_all\n^\nhint: install 'nowhere_at_all', or put 'nowhere_at_all.py' beside the file",
    "def f():\n    return 1 // 0\n\n\nf()\n": "{file}:2:1: error C107: the file cannot be run: ZeroDivisionError:",
    "import sys\nsys.exit(3)\n": "{file}:2:1: error C107: the file cannot be run: SystemExit: 3",
    "a = 1\n": "{file}:1:1: error C107: the file declares no ops\nhint: it should have a table: ops = OpRegistry(...)",
    "from runner import OpRegistry\n\nmine = OpRegistry()\n": "hint: call its table 'ops', not 'mine'",
    "from runner import OpRegistry\n\nops = OpRegistry()\n": "the file declares no ops: its table 'ops' is empty",
    "ops = 3\n": "the file declares no ops",
    "def register(registry):\n    raise KeyError('x')\n": "{file}:1:1: error C107: 'register' failed: 'x'",
    DECLARED.format(kernels="'k'").replace("f32[N] ->", "f32[N ->"): "{file}:4:1: error C107: op 'doubled': operand 'x: f32[N'",
    DECLARED.format(kernels="'k'").replace("AIV", "XYZ"): "{file}:4:1: error C107: op 'doubled': core is 'XYZ'",
    DECLARED.format(kernels="'k'").replace("doubled", "linear"): "op 'linear' is registered twice: ",
    "\0": "{file}:1:1: error C107: not Python",
}


@pytest.mark.parametrize("text", WRONG)
@pytest.mark.parametrize("command", ["schedule", "lint", "run"])
def test_what_is_wrong_with_a_file_is_told_by_its_place(text, command, folder, call):
    path = written(folder, text)
    status, out, err = call(command, folder / "doubling.yaml", "--config", folder / "layer.yaml", "--ops", path)
    assert status == (2 if command == "lint" else 1) and "Traceback" not in out + err
    assert WRONG[text].format(file=path) in err
    if "twice" in WRONG[text]:
        assert "linear.py:" in err and f"{path}:4" in err


def test_files_that_are_not_there(folder, call):
    given = (folder / "doubling.yaml", "--config", folder / "layer.yaml", "--ops")
    status, _, err = call("schedule", *given, folder / "none.py")
    assert status == 1 and f"'{folder / 'none.py'}' cannot be read: no such file or directory" in err
    status, _, err = call("schedule", *given, folder)
    assert status == 1 and "is a folder, expected a Python file" in err


def test_two_files_with_one_name_clash_and_a_file_twice_does_not(folder, call):
    first, second = FORMS["beside"](folder), written(folder, DECORATED, "more_ops.py")
    given = (folder / "doubling.yaml", "--config", folder / "layer.yaml", "--ops", first, "--ops")
    assert call("schedule", *given, folder / "." / "some_ops.py")[0] == 0
    status, _, err = call("schedule", *given, second)
    assert status == 1 and f"op 'doubled' is registered twice: {first}:4 and {second}:6" in err


def test_kernels_beside_files_of_two_folders_may_have_one_name(tmp_path, folder):
    for name, factor in (("one", 3), ("two", 5)):
        written(tmp_path / name, f"def times_{name}(x, *, y):\n    y.copy_({factor} * x)\n", "kernels.py")
        text = DECLARED.format(kernels="'kernels'").replace("doubled", f"times_{name}")
        written(tmp_path / name, text, "ops.py")
    graph = GRAPH.replace("doubled\n    in: {x: x}\n    out: {y: y}", "times_one\n    in: {x: x}\n    out: {y: 'z: f32[n]'}")
    (folder / "doubling.yaml").write_text(graph + "  - op: times_two\n    in: {x: z}\n    out: {y: y}\n")
    import torch

    driver = Driver(folder / "layer.yaml", ops=[tmp_path / "one" / "ops.py", tmp_path / "two" / "ops.py"])
    ran = driver.run(folder / "doubling.yaml", given={"x": torch.arange(4.0)})
    assert ran.tensors["y"].tolist() == [0, 15, 30, 45]


def test_kernels_that_cannot_be_imported_are_told_when_an_op_runs(folder, call):
    path = beside(folder)
    given = (folder / "doubling.yaml", "--config", folder / "layer.yaml", "--ops", path)
    for text, told in {
        "import nowhere_at_all\n": "some_kernels.py:1:1: error C107: the file cannot be run: ModuleNotFoundError",
        "x = (\n": "some_kernels.py:1:5: error C107: not Python",
        "def other():\n    pass\n": "op 'doubled' has no kernel: 'some_kernels' has no function 'doubled'",
        "def doubled(x):\n    pass\n": "the kernel of op 'doubled' does not fit its declaration: it does not take 'y'",
    }.items():
        written(folder, text, "some_kernels.py")
        status, _, err = call("run", *given)
        assert status == 1 and told in err and "Traceback" not in err
        assert call("schedule", *given)[0] == 0


def test_a_file_that_changed_is_read_anew(folder):
    path = written(folder, DECLARED.format(kernels="__name__"))
    before = ops_of_files([path])
    assert ops_of_files([path])["doubled"] == before["doubled"]
    path.write_text(path.read_text().replace("AIV", "AIC"))
    assert ops_of_files([path])["doubled"].core == "AIC"
    path.write_text("a = 1\n")
    with pytest.raises(ConfigError, match="declares no ops"):
        ops_of_files([path])
