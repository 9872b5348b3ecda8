"""What `ringgraph generate` and `run` do, as a program calls it: data comes back, files are left, nothing is printed."""

import json
from contextlib import contextmanager

import pytest
import torch

from runner.base.errors import ConfigError
from runner.checkpoint.random import init_checkpoint
from runner.config.config import load_config
from runner.driver import single
from runner.driver.driver import program_of, registry
from runner.driver.outputs import SideFiles, UnwrittenError
from runner.driver.serve import GENERATING, LOADING, Request, prepared, record_routing, serve
from runner.ranks.reports import Place
from runner.serving.session import Placement
from runner.serving.single_run import read_tensors
from schedulers import get_scheduler

pytestmark = pytest.mark.usefixtures("same_programs")

PROMPTS = ((1, 2, 3), (4, 5))
ANNOTATED = Placement(lambda program: get_scheduler("annotated")(program, {}))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = load_config(["tiny"], ("compress_ratios=[0,4]", "num_hidden_layers=2", "num_hash_layers=1"))
    return init_checkpoint(config, tmp_path_factory.mktemp("serve") / "tiny", seed=0)


def own(model):
    return load_config([model / "config.json"])


def test_serving_returns_data_and_leaves_files(model, tmp_path, capfd):
    told: dict[str, list[tuple[int, int]]] = {}

    @contextmanager
    def progress(part):
        yield lambda done, total: told.setdefault(part, []).append((done, total))

    request = Request(model, PROMPTS, 3, logits=tmp_path / "new" / "l.safetensors", routing=tmp_path / "r.jsonl")
    served = serve(prepared(own(model), request), request, registry(), ANNOTATED, progress=progress)
    assert served is not None and served.texts is None
    assert [len(g.tokens) for g in served.generations] == [3, 3]
    assert served.as_json()["tokens"] == [g.tokens for g in served.generations]
    assert (served.figures["prompt_tokens"], served.figures["new_tokens"], served.figures["ranks"]) == (5, 6, 1)
    assert told[LOADING][-1][0] == told[LOADING][-1][1] > 0
    assert told[GENERATING][-1] == (11, 11)
    logits = read_tensors(request.logits)
    assert logits["prompt.0.prefill"].shape == (3, 512) and logits["prompt.1.decode"].shape == (2, 512)
    assert int(logits["prompt.1.decode"][0].argmax()) == served.generations[1].tokens[1]
    assert capfd.readouterr() == ("", "")


def test_routing_is_recorded_alike_with_and_without_the_rest(model, tmp_path):
    request = Request(model, PROMPTS, 2, routing=tmp_path / "served.jsonl")
    serve(prepared(own(model), request), request, registry(), ANNOTATED)
    record_routing(own(model), Request(model, PROMPTS, 2), registry(), ANNOTATED).write(tmp_path / "alone.jsonl")
    lines = (tmp_path / "alone.jsonl").read_text().splitlines()
    assert lines == (tmp_path / "served.jsonl").read_text().splitlines()
    calls = [json.loads(line) for line in lines[1:]]
    assert [(call["phase"], call["tokens"]) for call in calls] == [
        ("prefill", [[0, 0], [0, 1], [0, 2]]),
        ("prefill", [[1, 0], [1, 1]]),
        ("decode", [[0, 3], [1, 2]]),
    ]


def test_what_cannot_be_done_is_said_before_anything_is_loaded(model, tmp_path):
    with pytest.raises(ConfigError, match="prompt 1 needs 4,100 positions with its new tokens, the model has 4,096"):
        prepared(own(model), Request(model, ((1,), (2,) * 4), 4096))
    with pytest.raises(IsADirectoryError):
        prepared(own(model), Request(model, PROMPTS, logits=tmp_path))


def test_a_file_that_fails_does_not_swallow_the_tokens(model, tmp_path):
    """The folder goes while the model runs; the other file is written all the same."""
    request = Request(model, PROMPTS, 2, logits=tmp_path / "gone" / "l.safetensors", routing=tmp_path / "r.jsonl")
    config = prepared(own(model), request)
    (tmp_path / "gone").rmdir()
    (tmp_path / "gone").touch()
    with pytest.raises(UnwrittenError, match=r"gone") as failed:
        serve(config, request, registry(), ANNOTATED)
    assert [len(g.tokens) for g in failed.value.result.generations] == [2, 2]
    assert request.routing.is_file()


def test_calls_of_a_rank_are_counted_by_name():
    place, seen = Place(None, 0), []
    for name in ("prefill", "prefill", "decode", "prefill", "decode"):
        place.call(name)
        seen.append(str(place))
    place.node("layer_0.x")
    assert seen == ["prefill call 0", "prefill call 1", "decode call 0", "prefill call 2", "decode call 1"]
    assert str(place) == "decode call 1, node 'layer_0.x'"


def test_one_run_saves_compares_and_profiles(tmp_path, capfd):
    config = load_config(["tiny"])
    program = program_of("moe", config)
    first = single.Request("moe", out=tmp_path / "golden" / "a.safetensors", profile=tmp_path / "p.json")
    ran = single.run(config, program, first, registry(), ANNOTATED)
    assert ran.comparisons is None and ran.rings is None and ran.result.num_tasks > 0
    assert json.loads(first.profile.read_text())["graph"] == "moe"
    again = single.run(config, program, single.Request("moe", golden=tmp_path / "golden"), registry(), ANNOTATED)
    assert again.comparisons and all(each.agrees and each.max_abs == 0 for each in again.comparisons)
    other = single.run(config, program, single.Request("moe", seed=1, golden=tmp_path / "golden"), registry(), ANNOTATED)
    assert not any(each.agrees for each in other.comparisons)
    with pytest.raises(ConfigError, match="--scope-stats needs rings"):
        single.run(config, program, single.Request("moe", files=SideFiles(tmp_path / "s")), registry(), ANNOTATED)
    with pytest.raises(IsADirectoryError):
        single.run(config, program, single.Request("nothing runs", files=SideFiles(tmp_path)), registry(), None)
    assert capfd.readouterr() == ("", "")
    assert {name: value.dtype for name, value in read_tensors(tmp_path / "golden").items()}.popitem()[1] == torch.float32
