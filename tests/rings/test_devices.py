"""Devices: presets with sources for all fields, files of the user's, what is said of wrong ones; one timing for all commands."""

import json
from dataclasses import asdict, fields
from importlib.resources import files

import pytest
import yaml
from sampled import sampled

from runner.base.errors import ConfigError
from runner.rings.devices.devices import Device, device, device_names

pytestmark = pytest.mark.usefixtures("short_searches")


@pytest.mark.parametrize("name", device_names())
def test_a_preset_says_where_its_fields_come_from(name):
    said = yaml.safe_load(files("runner.rings.devices").joinpath(f"{name}.yaml").read_text("utf-8"))
    own = said.keys() - {"name", "like", "sources"}
    sourced = {field for key in said["sources"] for field in key.split(", ")}
    assert own <= sourced and device(name).name == name == said["name"]
    assert own == {field.name for field in fields(Device)} - {"name"} or said["like"] in device_names()


def test_a_file_of_the_users_has_what_it_says_and_else_what_it_is_like(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text("like: A5\naic: 7\nsubmit_us: 1.5\nsources: {aic: counted}\n", encoding="utf-8")
    assert asdict(device(str(path))) == asdict(device("a5")) | {"name": "mine", "aic": 7, "submit_us": 1.5}
    path.write_text("", encoding="utf-8")
    assert asdict(device(str(path))) == asdict(device("a2a3")) | {"name": "mine"}


WRONG = [
    ("aic: four", 1, "'aic' is 'four' (a string), expected an integer"),
    ("# one\naiv: 1", 2, "'aiv' is 1, expected 2 to 1e+15"),
    ("clock_hz: 2.5", 1, "'clock_hz' is 2.5 (a number), expected an integer"),
    ("max_scopes: true", 1, "'max_scopes' is true (a boolean), expected an integer"),
    ("task_us: .inf", 1, "'task_us' is inf, expected 0 to 1e+15"),
    ("submit_us: 1.0e+308", 1, "'submit_us' is 1e+308, expected 0 to 1e+15"),
    ("bytes_per_us: 0", 1, "'bytes_per_us' is 0, expected 1 to 1e+15"),
    ("submitus: 1", 1, "a device has no 'submitus'"),
    ("like: a6", 1, "no device is called 'a6'"),
    ("name: [a]", 1, "'name' is a list, expected a name"),
    ("aic: 3\naic: 4", 2, "key 'aic' is given twice"),
    ("aic: [1", 1, "not YAML"),
    ("- aic", 1, "is not a mapping of keys to values"),
]


@pytest.mark.parametrize(("text", "line", "message"), WRONG, ids=[text for text, _, _ in WRONG])
def test_a_wrong_file_is_told_with_its_line(tmp_path, text, line, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        device(str(path))
    assert message in str(caught.value) and f"{path}:{line}:" in str(caught.value)


@pytest.mark.parametrize("data", [None, b"\xff\xfe", b"#" * 70_000])
def test_a_file_that_cannot_be_read_is_told_by_name(tmp_path, data):
    path = tmp_path / "mine.yaml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"device '.*mine\.yaml': "):
        device(str(path))
    with pytest.raises(ConfigError, match="no device is called 'a3'"):
        device("a3")


@pytest.mark.parametrize("command", ["size", "schedule"])
@pytest.mark.parametrize(
    "option",
    [
        ("--device", "a9"),
        ("--cores", "x"),
        ("--cores", "aic=1,aic=2"),
        ("--profile", "missing.json"),
        ("--task-us", "inf"),
        ("--task-us", "2e+15"),
        ("--submit-us", "1e+300"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_is_refused_where_nothing_is_timed_too(call, command, option):
    code, out, err = call(command, "moe", *option)
    assert code == 1 and not out and "error: " in err and option[1] in err


@pytest.mark.parametrize("graph", sampled(["o_proj_decode", "head", "moe"], ["o_proj_decode"]))
def test_all_commands_time_alike_by_the_file(call, tmp_path, graph):
    """And a file that changes changes what is told, also where results are kept."""
    mine = tmp_path / "mine.yaml"
    assumed = []
    for text in ("submit_us: 7\ntask_us: 9\naic: 2\n", "submit_us: 8\ntask_us: 9\naic: 2\n"):
        mine.write_text(text, encoding="utf-8")
        given = ("--device", mine, "--json")
        _, out, _ = call("schedule", graph, "--scheduler", "minpeak", *given)
        planned = json.loads(out)
        _, out, _ = call("size", graph, "--scheduler", "minpeak", *given)
        sized = json.loads(out)
        _, out, _ = call("frontier", graph, "--points", "1", *given)
        traced = json.loads(out)
        assert sized["timing"] == traced["timing"] == planned["timing"]
        assert sized["ring_heap"] == [ring["safe_bytes"] for ring in planned["rings"]]
        assumed.append(planned["timing"])
    assert [one["submit_us"] for one in assumed] == [7, 8] and assumed[0]["device"] == "mine"


GIVEN = ("", "--cores aic=1,aiv=2", "--submit-us 0.5", "--submit-us 50")


@pytest.mark.parametrize("name", sampled(("22", "layers_1"), ("22",)))
@pytest.mark.parametrize("given", GIVEN)
def test_a_recorded_program_is_sized_as_it_is_planned(call, given, name):
    command = (f"tests/data/captures/{name}", "--scheduler", "minpeak", *given.split(), "--json")
    planned, sized = (json.loads(call(name, *command)[1]) for name in ("schedule", "size"))
    assert sized["ring_heap"] == [ring["safe_bytes"] for ring in planned["rings"]]


@pytest.mark.parametrize("value", [-5, "nan", "-inf", "3", True, None, [1], {}, 1e16], ids=repr)
@pytest.mark.parametrize("where", ["task", "op"])
def test_a_profile_holds_times_that_can_be(call, tmp_path, value, where):
    """What is no time is told by its place: no report is made of it, and no plan looks for the best sum with NaN."""
    path, names = tmp_path / "p.json", ("hc_head_cast", "hc_head_linear")
    task = {"path": names[0], "us": value if where == "task" else 1}
    path.write_text(json.dumps({"tasks": [task], "ops": {names[1]: {"mean_us": value if where == "op" else 1}}}), "utf-8")
    code, out, err = call("schedule", "head", "--scheduler", "minpeak", "--profile", path)
    place = "'us' of tasks[0]" if where == "task" else "'mean_us' of op 'hc_head_linear'"
    assert code == 1 and not out and f"{path}: {place} is " in err


def test_the_longest_times_make_reports_in_json(call):
    code, out, _ = call("schedule", "moe", "--task-us", "1e15", "--submit-us", "1e15", "--json")
    assert code == 0 and json.loads(out, parse_constant=pytest.fail)["makespan_us"] > 1e15
