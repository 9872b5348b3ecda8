"""A family that is not ours, served: its graphs, deployments, state and vocabulary, all by what it says of itself."""

import pytest
from installed_family import installed

from runner.base.errors import ConfigError, RinggraphError
from runner.checkpoint.checkpoint import Checkpoint
from runner.checkpoint.random import init_checkpoint
from runner.config.config import load_config
from runner.driver.serve import Request, prepared, serve
from runner.program.ops import OpRegistry
from runner.serving.session import Placement
from schedulers import get_scheduler

LAYER = "model: toy\nwidth: 5\ndeployments:\n  reading: {batch: 4}\n  stepping: {batch: 2}\n  slow: {batch: 1}\n"
PLACEMENT = Placement(lambda program: get_scheduler("annotated")(program, {}))
PROMPTS = ((1,), (2, 3, 4, 5, 0, 1), (3, 3))

registry = OpRegistry()


@registry.op("remember", "tokens: i64[T], slots: i64[T], emb: {act}[V, K] -> &memory: f32[R, K], scores: f32[T, V]", core="AIV")
def remember(tokens, slots, emb, *, memory, scores):
    for at, (token, slot) in enumerate(zip(tokens.tolist(), slots.tolist(), strict=True)):
        if slot >= 0:
            memory[slot] += emb[token]
            scores[at] = emb @ (memory[slot] - memory[slot].mean())
        else:
            scores[at] = 0


@pytest.fixture
def config(tmp_path):
    with installed(tmp_path / "site", toy="toy_serving:family"):
        (tmp_path / "mine.yaml").write_text(LAYER)
        yield load_config([tmp_path / "mine.yaml"])


@pytest.fixture
def folder(config, tmp_path):
    return init_checkpoint(config, tmp_path / "made", seed=2)


def expected(folder, prompt, steps):
    """Greedy tokens, each worked out from all tokens before it; 6 ends them."""
    emb, made = Checkpoint.open(folder).weight("emb"), []
    while len(made) < steps and (not made or made[-1] != 6):
        memory = emb[[*prompt, *made]].sum(0)
        made.append(int((emb @ (memory - memory.mean())).argmax()))
    return made


@pytest.mark.parametrize("decode", [None, "slow"])
def test_prompts_are_read_in_chunks_and_continued_in_batches(config, folder, decode, tmp_path):
    request = Request(folder, PROMPTS, 6, decode=decode, logits=tmp_path / "scores.safetensors")
    served = serve(prepared(config, request), request, registry, PLACEMENT)
    assert served is not None
    assert [g.tokens for g in served.generations] == [expected(folder, prompt, 6) for prompt in PROMPTS]
    assert served.figures["prefill_calls"] == 1 + 2 + 1
    assert served.figures["state_bytes"] == 9 * 5 * 4


def test_it_refuses_what_it_does_not_know(config, folder, tmp_path):
    with pytest.raises(RinggraphError, match=r"^prompt 0: token 7 at 1 is outside of the vocabulary of 7$"):
        prepared(config, Request(folder, ((1, 7),)))
    expected = "^--record-routing needs a model whose tokens choose experts, and family 'toy' has none$"
    with pytest.raises(ConfigError, match=expected):
        prepared(config, Request(folder, PROMPTS, routing=tmp_path / "routing"))
