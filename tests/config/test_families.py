"""Families of models: how a configuration says which it is of, and that all of a family's own comes from there."""

import json
import pickle
import subprocess
import sys

import pytest
from installed_family import installed
from places import ROOT

from runner.base.errors import ConfigError, RinggraphError
from runner.config.config import load_config
from runner.config.sources import presets
from runner.models import family, family_names, model_types
from runner.models.protocols import ModelFamily


@pytest.fixture
def toy(tmp_path):
    with installed(tmp_path / "site", toy="toy_model:family"):
        yield


def layer(tmp_path, text, name="mine.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def refusal(*layers, sets=(), **options):
    with pytest.raises(ConfigError) as caught:
        load_config(layers, sets, **options)
    return str(caught.value)


# Saying which family it is


def test_ours_is_found_by_name_and_stays_the_same():
    assert "deepseek_v4" in family_names()
    assert family("deepseek_v4") is family("deepseek_v4") is load_config(["flash"], ep=2).family
    assert family("deepseek_v4").name == "deepseek_v4" and "deepseek_v4" in model_types()


def test_a_layer_of_our_own_may_name_it(tmp_path):
    text = (ROOT / "graphs" / "config" / "tiny.yaml").read_text().replace("model: deepseek_v4\n", "")
    path = layer(tmp_path, text)
    assert refusal(path) == (
        "error C105: no layer says which model this is\n"
        "hint: start from a preset, such as --config flash, or give a layer 'model: FAMILY', or 'fields' of its own"
    )
    assert load_config([path], ["model=deepseek_v4"]).values == load_config(["tiny"]).values
    assert load_config([layer(tmp_path, text + "model: deepseek_v4\n")]).values == load_config(["tiny"]).values


def test_no_layer_names_one():
    assert refusal(sets=["hidden_size=64"]).startswith("error C105: no layer says which model this is\n")
    assert refusal("flsh") == "error C100: configuration 'flsh': no such preset or file\nhint: did you mean 'flash'?"


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (
            "model=deepsek_v4",
            "error C103: unknown model family 'deepsek_v4' (from --set model=deepsek_v4)\nhint: did you mean 'deepseek_v4'?",
        ),
        ("model=3", "error C103: 'model' is 3 (an integer), expected the name of a model family (from --set model=3)"),
        (
            "model.x=deepseek_v4",
            "error C103: 'model' is a mapping, expected the name of a model family (from --set model.x=deepseek_v4)",
        ),
    ],
)
def test_names_that_are_none(option, expected):
    assert refusal("tiny", sets=[option]) == expected


def test_an_unknown_name_in_a_file(tmp_path):
    path = layer(tmp_path, "width: 3\nmodel: nothing\n")
    assert refusal("tiny", path) == (
        f"{path}:2:1: error C103: unknown model family 'nothing'\nmodel: nothing\n^\nhint: families are deepseek_v4, qwen3"
    )


def test_a_config_json_names_it_by_model_type(tmp_path):
    path = layer(tmp_path, json.dumps({"vocab_size": 5}), "config.json")
    assert refusal(path).startswith("error C105: no layer says which model this is")
    assert load_config(["deepseek_v4", path])["vocab_size"] == 5
    path = layer(tmp_path, json.dumps({"vocab_size": 5, "model_type": "deepseek_v4"}), "config.json")
    assert load_config([path]).family is family("deepseek_v4")
    path = layer(tmp_path, json.dumps({"model_type": ["deepseek_v4"]}), "config.json")
    assert "error C102: 'model_type' is '['deepseek_v4']', expected 'deepseek_v4'" in refusal(path)


def test_two_families(toy, tmp_path):
    path = layer(tmp_path, "# mine\nmodel: toy\n")
    assert refusal("tiny", path) == (
        f"{path}:2:1: error C104: 'model' is 'toy', but the layers below are of the family 'deepseek_v4'\nmodel: toy\n^"
    )
    saved = layer(tmp_path, json.dumps({"model_type": "toy_small"}), "config.json")
    assert f"{saved}:1:2: error C104: 'model_type' is 'toy_small', but the layers below are of the family" in refusal(
        "tiny", saved
    )
    with pytest.raises(ConfigError, match=r"'model' is 'toy', but .* \(from --set model=toy\)$"):
        load_config(["tiny"]).with_(sets=["model=toy"])
    assert load_config(["tiny"]).with_(sets=["model=deepseek_v4"])


# Another family


def test_a_family_without_routing_refuses_any():
    class Plain(ModelFamily):
        name = "plain"

    assert Plain().trip_counts("bound", load_config(["tiny"])) is None  # pyright: ignore[reportAbstractUsage]
    for text in ("random:0", "uniform", "routing.json"):
        with pytest.raises(ConfigError, match=f"--routing {text}: models of family 'plain' have no routing"):
            Plain().trip_counts(text, load_config(["tiny"]))  # pyright: ignore[reportAbstractUsage]


def test_another_familys_fields_base_and_dims(toy, tmp_path):
    config = load_config([layer(tmp_path, "model: toy\nwidth: 5\n")])
    assert dict(config.values) == {"depth": 3, "deploy": "here", "width": 5, "batch": 2, "W": 5, "AREA": 30}
    assert (config.name, config.deploy, dict(config.dtypes)) == ("mine", "here", {"act": "f32"})
    assert config.family is family("toy")
    assert config.origin("depth").endswith("toy_base.yaml:2")
    assert config.with_(sets=["here.batch=4"])["AREA"] == 60


def test_its_config_json_and_spellings(toy, tmp_path):
    path = layer(tmp_path, json.dumps({"model_type": "toy_large", "n_embd": 7}), "config.json")
    config = load_config([path])
    assert (config["width"], config["depth"]) == (7, 2)
    assert load_config([path], ["n_embd=8"])["width"] == 8
    unknown = layer(tmp_path, json.dumps({"model_type": "llama"}), "config.json")
    assert "error C102: 'model_type' is 'llama', expected 'deepseek_v4' or 'qwen3' or 'toy_large' or 'toy_small'" in refusal(
        unknown
    )


def test_its_rules(toy, tmp_path):
    path = layer(tmp_path, "model: toy\n")
    assert refusal(path) == "error C105: no value for 'width'\nhint: start from a preset, such as --config flash"
    assert refusal(path, sets=["width=2"]) == "error C104: 'width' is less than 'depth' in here (from --set width=2)"
    assert refusal(path, sets=["width=2", "depth=13"]).splitlines() == [
        "error C102: 'depth' is 13, which brings bad luck (from --set depth=13)",
        "error C104: 'width' is less than 'depth' in here (from --set width=2)",
    ]
    assert refusal(path, sets=["width=0"]) == "error C103: 'width' is 0 (an integer), expected at least 1 (from --set width=0)"


def test_nothing_of_ours_is_in_it(toy, tmp_path):
    path = layer(tmp_path, "model: toy\nwidth: 5\nhidden_size: 3\n")
    assert refusal(path) == f"{path}:3:1: error C101: unknown key 'hidden_size'\nhidden_size: 3\n^"
    assert "unknown key 'layer_types'" in refusal(layer(tmp_path, "model: toy\nwidth: 5\nlayer_types: [moe]\n"))


def test_it_goes_to_other_processes(toy, tmp_path):
    config = load_config([layer(tmp_path, "model: toy\nwidth: 5\n")])
    again = pickle.loads(pickle.dumps(config))
    assert again == config and again.family is config.family


def test_it_is_no_preset(toy):
    assert "toy" in family_names() and "toy" not in presets() and "deepseek_v4" not in presets()


def test_a_family_that_cannot_be_loaded(tmp_path):
    entries = {"unlucky": "toy_model:broken", "lost": "toy_model:nowhere", "alias": "toy_model:family"}
    with installed(tmp_path / "site", **entries):
        for name, told in (("unlucky", "cannot be loaded: no such luck"), ("alias", "calls itself 'toy'")):
            with pytest.raises(RinggraphError) as caught:
                family(name)
            where = f"model family '{name}' of package 'ringgraph-toy' ({entries[name]})"
            assert str(caught.value) == f"{where} {told}\nhint: mend or uninstall 'ringgraph-toy'"
        path = layer(tmp_path, "model: lost\n")
        assert f"{path}:1:1: error C103: model family 'lost' of package 'ringgraph-toy' (toy_model:nowhere) cannot" in refusal(
            path
        )
        assert load_config(["tiny"]), "it is in nobody's way"
        saved = layer(tmp_path, json.dumps({"model_type": "deepseek_v4"}), "config.json")
        assert load_config([saved]), "ours are asked first"


def test_a_base_layer_that_is_not_there_or_of_another_family(toy, tmp_path, monkeypatch):
    path = layer(tmp_path, "model: toy\nwidth: 5\n")
    monkeypatch.setattr(type(family("toy")), "base_layer", tmp_path / "nowhere.yaml")
    assert f"error C100: configuration '{tmp_path / 'nowhere.yaml'}': no such preset or file" in refusal(path)
    monkeypatch.setattr(type(family("toy")), "base_layer", "tiny")
    assert "error C104: 'model' is 'deepseek_v4', but the layers below are of the family 'toy'" in refusal(path)


def test_configurations_need_no_torch():
    code = "import sys; from runner.config.config import load_config; load_config(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=600)
