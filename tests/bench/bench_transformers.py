"""Prefill of 128 tokens and decode of 8 requests beside transformers, on one checkpoint and in turns in one process.

A figure is the CPU time of transformers over ours, medians of as many calls of each: above 1 is faster. One model:
`pytest -m bench -s tests/bench/bench_transformers.py -k "six and f32"`. What the machine is stands above the table.

Modes that a process takes from its environment before torch starts (another instruction set, threads that sleep) run this file as
a program of their own: `bench_transformers.py MODE FOLDER DTYPE` prints what it measured as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import pytest
import torch

from ops.kernels import products
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
    def __init__(self, folder: Path, *sets: str, device: str = "cpu", is_fast: bool = False):
        config = load_config([folder / "config.json"], ("max_context=512", *sets))
        strategy = get_scheduler("annotated")
        placed = Placement(lambda program: strategy(program, {}), is_fast=is_fast)
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


def medians(*sides: Callable[[], None], clock: Callable[[], float] = process_time) -> list[float]:
    """Median seconds of a call of each side, of the CPU if no other clock is given; the sides take turns."""
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(CALLS + 2):
        for side, noted in zip(sides, times, strict=True):
            start = clock()
            side()
            if turn > 1:  # the first two make kernels and buffers
                noted.append(clock() - start)
    return [median(noted) for noted in times]


def beside(folder: Path, dtype: str, *, is_fast: bool = False) -> dict[str, tuple[float, float]]:
    """Seconds of theirs and of ours by phase, and how far their logits are apart."""
    ours, theirs = Ours(folder, f"dtype={dtype}", is_fast=is_fast), Theirs(folder, dtype)
    error = float((ours.logits - theirs.logits).norm() / theirs.logits.norm())
    assert error < (1e-3 if dtype == "f32" else 0.2)
    prefill = medians(theirs.prefill, ours.prefill)
    decode = medians(theirs.decode, ours.decode)
    return {"prefill": (prefill[0], prefill[1]), "decode": (decode[0], decode[1]), "differ by": (error, 1.0)}


def shown(found: Mapping[str, tuple[float, float]]) -> str:
    parts = [f"{what} {a / b:5.2f} ({a * 1e3:6.1f} / {b * 1e3:6.1f} ms)" for what, (a, b) in list(found.items())[:2]]
    return f"{', '.join(parts)}; logits differ by {found['differ by'][0]:.1e}"


@pytest.mark.bench
@pytest.mark.parametrize("way", ["exact", "fast"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_beside_transformers(name, dtype, way, checkpoints, capsys):
    if way == "fast" and (dtype == "f32" or not products.has_bf16()):
        pytest.skip("the same products as exact ones")
    torch.set_num_threads(1)
    found = beside(checkpoints(name, dtype), dtype, is_fast=way == "fast")
    with capsys.disabled():
        print(f"\n{machine()}" if (name, dtype, way) == ("six", "f32", "exact") else "", end="")
        print(f"\n  {name:6s} {dtype:4s} {way:5s} 1 thread: {shown(found)}")


@pytest.mark.bench
def test_w8a8_beside_f32(checkpoints, capsys):
    torch.set_num_threads(1)
    folder = checkpoints("six", "f32")
    plain, codes = Ours(folder, "dtype=f32"), Ours(folder, "dtype=f32", "precision=w8a8")
    decode = medians(plain.decode, codes.decode)
    with capsys.disabled():
        print(f"\n  six: f32 over w8a8, decode {decode[0] / decode[1]:.2f} ({decode[0] * 1e3:.1f} / {decode[1] * 1e3:.1f} ms)")


# --- in processes of their own ---

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
"""What keeps both sides to a CPU with AVX2 alone, as far as their libraries listen."""


def elsewhere(mode: str, folder: Path, dtype: str, environment: Mapping[str, str]) -> dict:
    command = [sys.executable, __file__, mode, str(folder), dtype]
    kept = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    done = subprocess.run(command, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.bench
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_as_on_avx2(name, dtype, checkpoints, capsys):
    """Without VNNI and BF16 instructions transformers' bf16 takes torch's own products, as it does on such a CPU."""
    found = elsewhere("avx2", checkpoints(name, dtype), dtype, AVX2)
    with capsys.disabled():
        print(f"\n  {name:6s} {dtype:4s} as on AVX2, 1 thread: {shown(found)}")


@pytest.mark.bench
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_beside_transformers_with_two_threads(name, dtype, checkpoints, capsys):
    """Threads of both sides sleep while they wait, or the CPU time of either is what it waited."""
    found = elsewhere("two", checkpoints(name, dtype), dtype, {"OMP_WAIT_POLICY": "PASSIVE"})
    with capsys.disabled():
        print(f"\n  {name:6s} {dtype:4s} exact 2 threads: {shown(found)}")


def with_two_threads(folder: Path, dtype: str) -> dict[str, tuple[float, float]]:
    torch.set_num_threads(2)
    return beside(folder, dtype)


def as_on_avx2(folder: Path, dtype: str) -> dict[str, tuple[float, float]]:
    torch.set_num_threads(1)
    products.has_vnni = products.has_bf16 = lambda: False  # type: ignore[assignment]
    if dtype == "bf16":
        for name in ("__init__", "prefill", "decode"):
            setattr(Theirs, name, torch.backends.mkldnn.flags(enabled=False)(getattr(Theirs, name)))
    return beside(folder, dtype)


@pytest.mark.bench
@pytest.mark.parametrize("busy", [0, 4])
@pytest.mark.parametrize("name, dtype", [("six", "f32"), ("six", "bf16"), ("wide", "f32")])
def test_one_and_two_of_our_threads(name, dtype, busy, checkpoints, capsys):
    """Seconds of the clock, since that is what threads are for."""
    found = elsewhere("threads", checkpoints(name, dtype), dtype, {"OMP_WAIT_POLICY": "PASSIVE", "BUSY": str(busy)})
    parts = [f"{what} {two / one:5.2f} ({two * 1e3:7.1f} / {one * 1e3:7.1f} ms)" for what, (one, two) in found.items()]
    with capsys.disabled():
        print(f"\n  {name:6s} {dtype:4s} beside {busy} busy processes, two threads over one: {', '.join(parts)}")


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()


def one_and_two_threads(folder: Path, dtype: str) -> dict[str, list[float]]:
    """Seconds of a call with one thread and with two, by phase."""
    ours = Ours(folder, f"dtype={dtype}")

    def with_threads(count: int, call: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            torch.set_num_threads(count)
            call()

        return run

    with busy_processes(int(os.environ["BUSY"])):
        found = {}
        for name in ("prefill", "decode"):
            call = getattr(ours, name)
            found[name] = medians(with_threads(1, call), with_threads(2, call), clock=perf_counter)
    return found


if __name__ == "__main__":
    measure = {"avx2": as_on_avx2, "two": with_two_threads, "threads": one_and_two_threads}[sys.argv[1]]
    print(json.dumps(measure(Path(sys.argv[2]), sys.argv[3])))
