"""Prefill of 128 tokens and decode of 8 requests beside transformers, on one checkpoint and in turns in one process.

A figure is the CPU time of transformers over ours, medians of as many calls of each: above 1 is faster. One model:
`pytest -m bench -s tests/bench/bench_transformers.py -k "six and f32"`. What the machine is stands above the table.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time

import pytest
import torch

from runner.checkpoint.random import init_checkpoint
from runner.config.config import load_config
from runner.driver.driver import registry
from runner.serving.generate import Row
from runner.serving.session import ModelSession, Placement, open_session
from schedulers import get_scheduler

transformers = pytest.importorskip("transformers", "5.23.0", reason="transformers 5.23.0 is what we measure against")

PROMPT, BATCH = 128, 8
CALLS = int(os.environ.get("RINGGRAPH_BENCH_CALLS", "9"))
"""Calls of each side that a median is of."""

SIX = """hidden_size=1024 num_hidden_layers=6 compress_ratios=[0,4,128,4,128,0] num_attention_heads=16 head_dim=128
qk_rope_head_dim=32 q_lora_rank=512 o_lora_rank=256 o_groups=4 vocab_size=8192 moe_intermediate_size=512 n_routed_experts=16
num_experts_per_tok=3 index_n_heads=16 index_head_dim=64 index_topk=64"""
WIDE = "num_hidden_layers=2 compress_ratios=[4,128] n_routed_experts=16 vocab_size=16384 num_hash_layers=1"
QWEN = """hidden_size=1024 num_hidden_layers=8 intermediate_size=3072 num_attention_heads=16 num_key_value_heads=8 head_dim=128
vocab_size=8192 tie_word_embeddings=false"""
MODELS = {"six": ("tiny", SIX), "wide": ("demo", WIDE), "qwen3": ("qwen3-tiny", QWEN)}
"""Preset, and what it is changed to."""
TORCH = {"f32": torch.float32, "bf16": torch.bfloat16}


def machine() -> str:
    """What the figures depend on."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    features = [flag for flag in ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_tile") if flag in flags]
    return f"{names[0] if names else 'a CPU'}, {len(names)} cores: {' '.join(features)}; torch {torch.__version__}"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Callable[[str, str], Path]:
    """The checkpoint of a model, by the dtype of its plain weights; each is made once."""
    made: dict[tuple[str, str], Path] = {}

    def get(name: str, dtype: str) -> Path:
        if (name, dtype) not in made:
            preset, sets = MODELS[name]
            folder = tmp_path_factory.mktemp(name) / "model"
            made[name, dtype] = init_checkpoint(load_config([preset], sets.split()), folder, seed=0, flavour=dtype)
        return made[name, dtype]

    return get


def prompts(vocab_size: int) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(1)
    return [tuple(torch.randint(2, vocab_size, (PROMPT,), generator=generator).tolist()) for _ in range(BATCH)]


def next_tokens(position: int) -> list[int]:
    """A token of each request, all different: each takes its own experts."""
    return [(position * 131 + request * 977) % 5000 for request in range(BATCH)]


class Ours:
    def __init__(self, folder: Path, *sets: str, device: str = "cpu"):
        config = load_config([folder / "config.json"], ("max_context=512", *sets))
        strategy = get_scheduler("annotated")
        placed = Placement(lambda program: strategy(program, {}))
        self.session: ModelSession = open_session(config, folder, registry(), placed, device=device)
        self.given = prompts(config.values["vocab_size"])
        self.handles = [self.session.admit(400, PROMPT) for _ in self.given]
        self.position = PROMPT
        for handle, tokens in zip(self.handles, self.given, strict=True):
            self.session.prefill(Row(handle, tokens, 0))
        self.session.release(self.handles.pop())
        self.handles.append(self.session.admit(400, PROMPT))
        self.logits = self.session.prefill(Row(self.handles[-1], self.given[-1], 0))

    def prefill(self) -> None:
        """Of the last request, anew."""
        self.session.release(self.handles.pop())
        self.handles.append(self.session.admit(400, PROMPT))
        self.session.prefill(Row(self.handles[-1], self.given[-1], 0))

    def catch_up(self) -> None:
        """The last request stands at the end of its prompt: it gets what the others have got."""
        for at in range(PROMPT, self.position):
            self.session.step([Row(self.handles[-1], (7,), at)])

    def decode(self) -> None:
        tokens = next_tokens(self.position)
        self.session.step([Row(handle, (token,), self.position) for handle, token in zip(self.handles, tokens, strict=True)])
        self.position += 1


class Theirs:
    def __init__(self, folder: Path, dtype: str, device: str = "cpu"):
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=TORCH[dtype]).eval().to(device)
        self.ids = torch.tensor(prompts(self.model.config.vocab_size), device=device)
        with torch.no_grad():
            out = self.model(self.ids, use_cache=True)
        self.cache, self.logits, self.position = out.past_key_values, out.logits[-1].float(), PROMPT

    def prefill(self) -> None:
        with torch.no_grad():
            self.model(self.ids[-1:], use_cache=True)

    def decode(self) -> None:
        with torch.no_grad():
            ids = torch.tensor(next_tokens(self.position), device=self.ids.device).view(-1, 1)
            out = self.model(ids, past_key_values=self.cache, use_cache=True)
        self.position += 1
        self.cache = out.past_key_values


def medians(*sides: Callable[[], None]) -> list[float]:
    """Median CPU seconds of a call of each side; the sides take turns."""
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(CALLS + 2):
        for side, noted in zip(sides, times, strict=True):
            start = process_time()
            side()
            if turn > 1:  # the first two make kernels and buffers
                noted.append(process_time() - start)
    return [median(noted) for noted in times]


@pytest.mark.bench
@pytest.mark.parametrize("threads", [1, 2], ids=lambda n: f"{n}-threads")
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_beside_transformers(name, dtype, threads, checkpoints, capsys):
    torch.set_num_threads(threads)
    folder = checkpoints(name, dtype)
    ours, theirs = Ours(folder, f"dtype={dtype}"), Theirs(folder, dtype)
    error = float((ours.logits - theirs.logits).norm() / theirs.logits.norm())
    prefill = medians(theirs.prefill, ours.prefill)
    ours.catch_up()
    decode = medians(theirs.decode, ours.decode)
    torch.set_num_threads(1)
    with capsys.disabled():
        print(f"\n{machine()}" if (name, dtype, threads) == ("six", "f32", 1) else "", end="")
        shown = [
            f"{what} {a / b:5.2f} ({a * 1e3:6.1f} / {b * 1e3:6.1f} ms)"
            for what, (a, b) in (("prefill", prefill), ("decode", decode))
        ]
        print(f"\n  {name:6s} {dtype:4s} {threads} threads: {', '.join(shown)}; logits differ by {error:.1e}")
    assert error < (1e-3 if dtype == "f32" else 0.2)


@pytest.mark.bench
def test_w8a8_beside_f32(checkpoints, capsys):
    torch.set_num_threads(1)
    folder = checkpoints("six", "f32")
    plain, codes = Ours(folder, "dtype=f32"), Ours(folder, "dtype=f32", "precision=w8a8")
    decode = medians(plain.decode, codes.decode)
    with capsys.disabled():
        print(f"\n  six: f32 over w8a8, decode {decode[0] / decode[1]:.2f} ({decode[0] * 1e3:.1f} / {decode[1] * 1e3:.1f} ms)")
