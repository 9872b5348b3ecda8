"""Generation over ranks: the numbers of transformers' model and of one rank, whatever the layout, however skewed the routing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hf_oracle
import pytest
import torch
import w8a8_oracle
from places import TESTS
from safetensors.torch import load_file, save_file
from sampled import sampled
from test_parity import LIMIT, MODELS, errors, in_order, prompts
from test_w8a8_codes import NOISE, Codes
from warm import launched

from runner.checkpoint.random import init_checkpoint
from runner.config.config import load_config
from runner.driver.serve import experts_of
from runner.models.deepseek_v4.receive_depth import layer_depths
from runner.models.deepseek_v4.recorded_routing import RoutingTable, read_routing
from runner.serving.generate import generate

pytestmark = pytest.mark.usefixtures("same_programs")

JOBS = TESTS / "rank_programs" / "jobs.py"


@dataclass(frozen=True)
class Made:
    """What a job left: tokens and logits (every position) by prompt, the routing, or every rank's error."""

    tokens: list[list[int]]
    logits: list[torch.Tensor]
    routing: RoutingTable | None
    errors: list[str]


def run_jobs(folder: Path, num_ranks: int, jobs: list[dict[str, Any]]) -> dict[str, Made]:
    """All jobs in one world of ranks."""
    folder.mkdir()
    (folder / "jobs.json").write_text(json.dumps(jobs, default=str))
    launched(JOBS, folder / "jobs.json", num_ranks=num_ranks, timeout_s=240)
    found = {}
    for job in jobs:
        path = folder / f"{job['name']}.safetensors"
        refused = [(folder / f"{job['name']}.{rank}.error") for rank in range(num_ranks)]
        texts = [error.read_text() for error in refused if error.exists()]
        tensors = load_file(path) if path.exists() else {}
        count = len(job["prompts"]) if tensors else 0
        found[job["name"]] = Made(
            [tensors[f"{n}.tokens"].tolist() for n in range(count)],
            [tensors[f"{n}.logits"] for n in range(count)],
            read_routing(path.with_suffix(".routing")) if tensors else None,
            texts,
        )
    return found


def job(name: str, checkpoint: Path, given, new_tokens: int, *sets: str) -> dict[str, Any]:
    return {"name": name, "checkpoint": checkpoint, "prompts": given, "new_tokens": new_tokens, "sets": sets}


def alone(checkpoint: Path, given, new_tokens: int, *sets: str) -> Made:
    """The same on one rank, in this process."""
    config = load_config([checkpoint / "config.json"], sets)
    session = in_order(config, checkpoint)
    recorder = session.recorder = experts_of(config, "this test").recorder(session.serving, session.programs, 0, 1)
    made, _ = generate(session, given, new_tokens, keep_logits=True)
    rows = [torch.cat([*g.prefill_logits, *(row.unsqueeze(0) for row in g.decode_logits)]) for g in made]
    return Made([g.tokens for g in made], rows, recorder.recording([recorder.packed()]), [])


# --- f32 against transformers ---------------------------------------------------------------------------------------

F32 = {2: ("many-heads-narrow-window", "wide-window-odd-sizes"), 4: ("all-paths",), 8: ("hashed-no-yarn",)}
LENGTHS = (1, 130, 5, 40, 3, 6, 2, 4)


def jobs_of(folder: Path, num_ranks: int, names, steps: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Models of transformers, and jobs with their checkpoints."""
    models = {name: hf_oracle.random_model(MODELS[name], seed=7) for name in names}
    for name, model in models.items():
        hf_oracle.save(model, folder / name)
    given = {name: prompts(LENGTHS[: max(4, num_ranks)], MODELS[name]["vocab_size"]) for name in names}
    return models, [job(name, folder / name, given[name], steps + 1) for name in names]


def check_jobs(models: dict[str, Any], jobs: list[dict[str, Any]], made: dict[str, Made]) -> None:
    for each in jobs:
        name = each["name"]
        assert made[name].errors == []
        for prompt, tokens, rows in zip(each["prompts"], made[name].tokens, made[name].logits, strict=True):
            golden = hf_oracle.logits(models[name], [*prompt, *tokens[:-1]])
            assert len(tokens) == each["new_tokens"] and rows.shape == golden.shape
            assert float(errors(rows, golden).max()) < LIMIT
            assert golden[len(prompt) - 1 :].argmax(dim=1).tolist() == tokens


def check_models(tmp_path: Path, num_ranks: int, names, steps: int) -> None:
    models, jobs = jobs_of(tmp_path, num_ranks, names, steps)
    check_jobs(models, jobs, run_jobs(tmp_path / "out", num_ranks, jobs))


@dataclass(frozen=True)
class OverTwo:
    """What two ranks made, started once: models in f32, and a checkpoint in W8A8."""

    models: dict[str, Any]
    jobs: list[dict[str, Any]]
    w8a8: dict[str, Any]
    made: dict[str, Made]


@pytest.fixture(scope="module")
def over_two(tmp_path_factory) -> OverTwo:
    base = tmp_path_factory.mktemp("two")
    models, jobs = jobs_of(base, 2, F32[2], 3)
    sets = ("precision=w8a8", "index_n_heads=16")
    folder = init_checkpoint(load_config(["tiny"], sets), base / "w8a8", seed=3, flavour="w8a8")
    w8a8 = job("w8a8", folder, prompts((5, 129, 1, 8), 512), 5, "precision=w8a8", "dtype=f32")
    return OverTwo(models, jobs, w8a8, run_jobs(base / "out", 2, [*jobs, w8a8]))


def test_logits_and_tokens_over_two_ranks(over_two):
    check_jobs(over_two.models, over_two.jobs, over_two.made)


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [4, 8])
def test_logits_and_tokens_over_ranks(num_ranks, tmp_path):
    check_models(tmp_path, num_ranks, F32[num_ranks], 3)


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 4, 8])
def test_more_models_over_ranks(num_ranks, tmp_path):
    check_models(tmp_path, num_ranks, [name for name in MODELS if MODELS[name]["n_routed_experts"] % num_ranks == 0], 16)


# --- skewed routing, both layouts, and one rank against many --------------------------------------------------------

SMALL = ("compress_ratios=[0,4]", "num_hidden_layers=2", "num_hash_layers=0", "index_n_heads=16")
"""Two layers, which choose their experts by score."""


def biased(folder: Path, bias) -> Path:
    """A checkpoint whose routers prefer experts by `bias`, f32[E], far beyond what scores can turn."""
    made = init_checkpoint(load_config(["tiny"], SMALL), folder, seed=4)
    for shard in made.glob("*.safetensors"):
        tensors = load_file(shard)
        changed = {name: torch.tensor(bias) for name in tensors if name.endswith("gate.bias")}
        if changed:
            save_file({**tensors, **changed}, shard, {"format": "pt"})
    return made


ONE_EXPERT = [1000.0 * (expert == 5) for expert in range(16)]
ZIPF = [-0.3 * torch.tensor(float(1 + expert)).log().item() for expert in range(16)]
"""Scores lie about 0.3 apart, so that experts are chosen nearly as often as 1 / (1 + expert) says."""


@dataclass(frozen=True)
class Case:
    """A checkpoint with skewed routing, and prompts for two ranks in turn."""

    name: str
    folder: Path
    given: list[tuple[int, ...]]


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> list[Case]:
    folder = tmp_path_factory.mktemp("skewed")
    several = prompts((130, 100, 17, 60), 512, seed=3)
    return [
        Case("one-expert", biased(folder / "one", ONE_EXPERT), several),
        Case("zipf", biased(folder / "zipf", ZIPF), several),
        Case("same-prompt", biased(folder / "same", [0.0] * 16), [several[0]] * 4),
    ]


NEW = 3


class MadeWhenAsked(dict[str, Made]):
    """What is made when somebody first asks for it: `make` gives it, perhaps with more, by name."""

    def __init__(self, make: Callable[[str], dict[str, Made]]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, name: str) -> Made:
        self.update(self.make(name))
        return self[name]


@pytest.fixture(scope="module")
def singles(cases) -> dict[str, Made]:
    """Every case on one rank."""
    by_name = {case.name: case for case in cases}
    return MadeWhenAsked(lambda name: {name: alone(by_name[name].folder, by_name[name].given, NEW)})


CHUNKED = {"one-by-one": ("chunked=true",), "in-groups": ("chunked=true", "EXPERT_CHUNK=3")}
"""Experts whose outputs are held at a time: one, and three of the eight of a rank."""


def depth(table: RoutingTable, phase: str) -> int:
    return max(layer.least_depth for layer in layer_depths(table, phase, 16))


PADDED = "recv_layout=padded"
LAYOUTS: dict[str, Callable[[int], tuple[str, ...]]] = {
    "ragged": lambda advised: (),
    "advised": lambda advised: (PADDED, f"recv_max={advised}"),
    "less": lambda advised: (PADDED, f"recv_max={advised - 16}"),
    "96": lambda advised: (PADDED, "recv_max=96"),
}
IN_GROUPS: dict[str, Callable[[int], tuple[str, ...]]] = {
    "one-by-one": lambda advised: CHUNKED["one-by-one"],
    "in-groups": lambda advised: CHUNKED["in-groups"],
    "padded-in-groups": lambda advised: (*CHUNKED["in-groups"], PADDED, f"recv_max={advised}"),
}
CASES = ["one-expert", "zipf", "same-prompt"]


def is_usual(name: str) -> bool:
    """Whether a run over two ranks is one of `make test`."""
    return name.startswith("zipf") or name == "one-expert-96"


@pytest.fixture(scope="module")
def pairs(cases, singles, tmp_path_factory) -> dict[str, Made]:
    """Every case on two ranks: ragged; padded as the depth found on one rank advises, one tile less, and at 96."""

    def make(name: str) -> dict[str, Made]:
        jobs = []
        for case in cases:
            layouts = LAYOUTS | IN_GROUPS if case.name == "zipf" else LAYOUTS
            asked = [layout for layout in layouts if is_usual(f"{case.name}-{layout}") == is_usual(name)]
            routed = singles[case.name].routing if asked and asked != ["96"] else None
            advised = depth(routed.spread(2, prefill_tokens=128, batch=8), "prefill") if routed else 0
            jobs += [job(f"{case.name}-{layout}", case.folder, case.given, NEW, *layouts[layout](advised)) for layout in asked]
        return run_jobs(tmp_path_factory.mktemp("pairs") / "out", 2, jobs)

    return MadeWhenAsked(make)


def equal(a: Made, b: Made) -> bool:
    return a.tokens == b.tokens and all(torch.equal(x, y) for x, y in zip(a.logits, b.logits, strict=True))


@pytest.mark.parametrize("name", sampled(CASES, ["zipf"]))
def test_layouts_agree_bit_for_bit_however_skewed(pairs, singles, name):
    ragged, advised = pairs[f"{name}-ragged"], pairs[f"{name}-advised"]
    assert ragged.errors == advised.errors == [] and equal(ragged, advised)
    assert ragged.tokens == singles[name].tokens


@pytest.mark.parametrize("name", sampled(CASES, ["zipf"]))
def test_routes_recorded_over_ranks_are_those_of_one_rank(pairs, singles, name):
    routed = singles[name].routing
    assert routed is not None
    assert pairs[f"{name}-ragged"].routing == routed.spread(2, prefill_tokens=128, batch=8)


REFUSED = re.compile(
    r"layer (\d+): expert (\d+) \(expert (\d+) of rank (\d+)\) would receive (\d+) rows, but 'recv_max' is (\d+)"
)


def first_overflow(table: RoutingTable, limit: int) -> tuple[int, int, int]:
    """Layer, expert and rows of the first dispatch that gives some expert more than `limit` rows; counted from the routes."""
    for call in table.rows("prefill"):
        for layer in sorted(call):
            rows = max(call[layer])
            if rows > limit:
                return layer, call[layer].index(rows), rows
    raise AssertionError(f"no expert gets more than {limit} rows")


@pytest.mark.parametrize("name", sampled(CASES, ["zipf"]))
@pytest.mark.parametrize("how", ["less", "96"])
def test_padded_buffers_that_are_too_small_are_refused_with_the_right_numbers(pairs, name, how):
    table, refused = pairs[f"{name}-ragged"].routing, pairs[f"{name}-{how}"]
    assert table is not None
    limit = depth(table, "prefill") - 16 if how == "less" else 96
    if how == "96" and depth(table, "prefill") <= 96:
        assert refused.errors == [] and equal(refused, pairs[f"{name}-ragged"])
        return
    layer, expert, rows = first_overflow(table, limit)
    assert refused.tokens == [] and len(refused.errors) == 2 and refused.errors[0] == refused.errors[1]
    found = REFUSED.search(refused.errors[0])
    assert found is not None
    assert tuple(map(int, found.groups())) == (layer, expert, expert % 8, expert // 8, rows, limit)
    assert refused.errors[0].endswith(
        f"hint: --set recv_max={-(-rows // 16) * 16}, or --set recv_layout=ragged, which cannot overflow"
    )


def test_the_law_is_zipfs(singles):
    """Routes of an expert, of all prefill tokens and layers: falling, with a head and a tail."""
    rows = [
        sum(call[layer][expert] for call in singles["zipf"].routing.rows("prefill") for layer in call) for expert in range(16)
    ]
    assert rows[0] > 2 * rows[3] > 4 * rows[10] > 0


@pytest.mark.parametrize("name", ["one-by-one", "in-groups", "padded-in-groups"])
def test_experts_a_few_at_a_time_change_no_bit(pairs, name):
    assert pairs[f"zipf-{name}"].errors == [] and equal(pairs[f"zipf-{name}"], pairs["zipf-ragged"])


@pytest.mark.parametrize("precision", sampled(("full", "w8a8"), ("w8a8",)))
def test_experts_a_few_at_a_time_on_one_rank(tmp_path, precision):
    """Prefill of two calls and decode; a last group is smaller."""
    flavour = "f32" if precision == "full" else "w8a8"
    sets = ("num_hidden_layers=3", "compress_ratios=[0,4,128]")
    folder = init_checkpoint(load_config(["tiny"], sets), tmp_path / "tiny", seed=0, flavour=flavour)
    given = prompts((130, 5), 512, seed=3)
    whole = alone(folder, given, NEW)
    for chunked in CHUNKED.values():
        assert equal(alone(folder, given, NEW, *chunked), whole)


def test_every_token_went_to_one_expert(pairs):
    """And 96 rows were too few for that: both ranks' first chunks, of 128 and 100 tokens, meet in expert 5."""
    made = pairs["one-expert-96"]
    assert "expert 5 (expert 5 of rank 0) would receive 228 rows, but 'recv_max' is 96" in made.errors[0]


def test_a_rank_computes_what_one_rank_alone_computes(cases, pairs):
    """Bit for bit, where its batches are the same: rank r of two has every second prompt."""
    case = cases[1]
    for rank in range(2):
        mine = alone(case.folder, case.given[rank::2], NEW)
        both = pairs["zipf-ragged"]
        assert mine.tokens == both.tokens[rank::2]
        assert all(torch.equal(x, y) for x, y in zip(mine.logits, both.logits[rank::2], strict=True))


@pytest.mark.slow
def test_every_number_of_ranks_makes_the_same_tokens(tmp_path):
    """And the same logits, bit for bit, where all ranks have the same prompt."""
    folder = init_checkpoint(load_config(["tiny"]), tmp_path / "tiny", seed=0)
    given = prompts(LENGTHS, 512, seed=5)
    same = alone(folder, [given[1]], 6)
    one = alone(folder, given, 6)
    for num_ranks in (2, 4, 8):
        jobs = [job("all", folder, given, 6), job("same", folder, [given[1]] * num_ranks, 6)]
        made = run_jobs(tmp_path / f"out{num_ranks}", num_ranks, jobs)
        assert made["all"].tokens == one.tokens
        for tokens, rows in zip(made["same"].tokens, made["same"].logits, strict=True):
            assert tokens == same.tokens[0] and torch.equal(rows, same.logits[0])


WIDE = ("hidden_size=2048", "moe_intermediate_size=1024", "q_lora_rank=512", "compress_ratios=[0,4,128]", "num_hidden_layers=3")
"""Wide enough for products to be split over threads, and otherwise over other numbers of rows."""


@pytest.fixture(scope="module")
def wide_logits(tmp_path_factory):
    """Logits of a wide model through the command line, which sees to reproducible products, by its further arguments."""
    folder = init_checkpoint(load_config(["tiny"], WIDE), tmp_path_factory.mktemp("wide") / "model", seed=0)
    given = folder.parent / "prompts.json"
    given.write_text(json.dumps(prompts((130, 3, 8, 5), 512, seed=1)))

    def made(*how):
        out = folder.parent / "logits.safetensors"
        command = ["-m", "runner.cli.main", "generate", "--checkpoint", folder, "--max-new-tokens", "4", *how]
        subprocess.run([sys.executable, *command, "--prompts", given, "--logits", out], check=True)
        return load_file(out)

    return made


def same_files(these, those):
    return these.keys() == those.keys() and all(torch.equal(these[name], those[name]) for name in these)


@pytest.mark.slow
def test_batches_change_no_bit(wide_logits):
    """One thread on one rank, on each of two and of four, whose products have other numbers of rows."""
    one = wide_logits("--threads", "1")
    assert same_files(one, wide_logits("--ep", "2")) and same_files(one, wide_logits("--ep", "4"))


NARROW = """
import torch
x, w = torch.ones(8, 64).normal_(), torch.ones(16, 64).normal_()
made = []
for threads in (1, 2):
    torch.set_num_threads(threads)
    made.append(x @ w.t())
print(torch.equal(*made))
"""


@pytest.mark.slow
def test_threads_change_no_bit(wide_logits):
    """Two threads on one rank, where the CPU's library keeps its promise of reproducible products."""
    promise = {**os.environ, "MKL_CBWR": "AUTO,STRICT"}
    kept = subprocess.run([sys.executable, "-c", NARROW], env=promise, check=True, capture_output=True, text=True).stdout
    if kept.strip() != "True":
        pytest.skip("on this CPU a product of 8 rows and 16 columns depends on the number of threads under MKL_CBWR=AUTO,STRICT")
    assert same_files(wide_logits("--threads", "1"), wide_logits("--threads", "2"))


# --- W8A8 -----------------------------------------------------------------------------------------------------------


def test_w8a8_over_ranks_against_rounded_transformers(tmp_path, over_two):
    """INT8 end to end, against dequantised weights and activations in transformers' model that are rounded to the run's codes.

    Which those are is asked of one rank, each prompt for itself: it makes the bits that the two ranks made.
    """
    job, made = over_two.w8a8, over_two.made["w8a8"]
    session = in_order(load_config([job["checkpoint"] / "config.json"], job["sets"]), job["checkpoint"])
    model = w8a8_oracle.load(job["checkpoint"], tmp_path / "plain")
    assert made.errors == [] and len(made.tokens) == len(made.logits) == len(job["prompts"])
    for prompt, chosen, rows in zip(job["prompts"], made.tokens, made.logits, strict=True):
        codes = Codes(session)
        tokens, alone_rows = codes.run(prompt, job["new_tokens"] - 1)
        assert tokens == [*prompt, *chosen[:-1]] and torch.equal(alone_rows, rows)
        model.rounding = following = w8a8_oracle.Following(codes.found)
        apart = errors(rows, w8a8_oracle.logits(model, tokens, len(prompt)))
        assert following.num_codes > 0 and following.farthest < 0.5 + NOISE
        assert float(apart.max()) < 1e-5


# --- graphs of one's own over ranks -----------------------------------------------------------------------------------

VIEWS = """\
  - {view: counts_by_expert, of: pub_counts, type: "i32[EP * EP, E]"}
  - {view: counts, of: counts_by_expert, type: "i32[EP, EP * E]"}
  - {view: rows, of: routed_y_buf, type: "{act}[T * TOPK, D]"}
  - {view: choices, of: rows, type: "{act}[T, TOPK, D]"}
  - op: dispatch
"""


@pytest.mark.slow
def test_what_ranks_exchange_through_may_be_viewed(tmp_path):
    """Peers write into buffers of each other: a view of such a buffer, handed to the ops that do, is the same buffer."""
    shutil.copytree(TESTS.parent / "graphs" / "deepseek_v4", tmp_path / "graphs")
    text = (tmp_path / "graphs" / "moe.yaml").read_text()
    viewed = text.replace("  - op: dispatch\n", VIEWS).replace("pub_counts: pub_counts", "pub_counts: counts")
    viewed = viewed.replace("routed_y: routed_y_buf", "routed_y: choices")
    assert (viewed.count("counts: counts"), viewed.count("routed_y: choices")) == (2, 3)
    init_checkpoint(load_config(["tiny"]), tmp_path / "model", seed=3)
    command = [sys.executable, "-m", "runner", "generate", "--checkpoint", tmp_path / "model", "--ep", "2", "--ring-heap", "safe"]
    command += ["--prompt-ids", "1,2,3,4,5", "--prompt-ids", "7", "--max-new-tokens", "12", "--json"]
    command += [f"--{phase}-graph={tmp_path / 'graphs' / f'{phase}_fwd.yaml'}" for phase in ("prefill", "decode")]
    tokens = []
    for made in (text, viewed):
        (tmp_path / "graphs" / "moe.yaml").write_text(made)
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        tokens.append(json.loads(ended.stdout)["tokens"])
    assert tokens[0] == tokens[1] and len(tokens[0][0]) == 12
