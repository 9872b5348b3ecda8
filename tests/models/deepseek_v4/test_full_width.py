"""Full width: three layers of the flash preset in W8A8 on two ranks, decode T=8 and prefill T=128, against rounded transformers.

Slow, and prints the figures that docs/expert-parallel.md has: `pytest -m slow -s tests/models/deepseek_v4/test_full_width.py`.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import w8a8_oracle
from safetensors.torch import load_file

from runner.checkpoint.random import init_checkpoint
from runner.config.config import load_config

NEEDED_BYTES = 18 * 2**30
"""Memory of transformers' model in f32, and some."""

LENGTHS = (128, 7, 128, 3, 1, 5, 9, 2, 4, 6, 8, 10, 11, 12, 3, 2)
"""Of 16 prompts: both ranks decode 8 requests at a time."""

NEW = 5


def available_bytes() -> int:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def generate(checkpoint: Path, given, out: Path, *arguments: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """What `ringgraph generate` prints and the logits that it writes."""
    (out / "prompts.json").write_text(json.dumps(given))
    command = [sys.executable, "-m", "runner.cli.main", "generate", "--checkpoint", str(checkpoint)]
    command += ["--prompts", str(out / "prompts.json"), "--max-new-tokens", str(NEW), "--ignore-eos", "--ep", "2", "--json"]
    command += ["--logits", str(out / "logits.safetensors"), "--timeout-s", "600", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), load_file(out / "logits.safetensors")


def compare(model, given, made: dict, logits: dict[str, torch.Tensor], numbers) -> tuple[float, float]:
    """Relative error of all logits, and the part of positions whose likeliest token is the same."""
    rows, golden = [], []
    for n in numbers:
        tokens = [*given[n], *made["tokens"][n][:-1]]
        golden.append(w8a8_oracle.logits(model, tokens, len(given[n])))
        rows += [logits[f"prompt.{n}.prefill"], logits[f"prompt.{n}.decode"]]
    got, expected = torch.cat(rows), torch.cat(golden)
    relative = float((got - expected).norm() / expected.norm())
    return relative, float((got.argmax(dim=1) == expected.argmax(dim=1)).float().mean())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_full_width_w8a8_on_two_ranks(tmp_path):
    if available_bytes() < NEEDED_BYTES:
        pytest.skip(f"needs {NEEDED_BYTES >> 30} GiB of free memory, {available_bytes() >> 30} GiB are free")
    sets = ("compress_ratios=[0,4,128]", "num_hidden_layers=3", "precision=w8a8", "dtype=bf16")
    folder = init_checkpoint(load_config(["demo"], sets), tmp_path / "demo", seed=0, flavour="w8a8")
    choose = random.Random(0)
    given = [[choose.randrange(129280) for _ in range(length)] for length in LENGTHS]
    made, logits = generate(folder, given, tmp_path)
    names = ("prefill_s", "prefill_calls", "decode_s", "decode_calls", "load_s", "weight_bytes", "peak_process_bytes")
    print({name: made[name] for name in names})
    few = [given[0], given[3], *([[1]] * 6)]  # in f32 activations only codes on an edge differ, and what follows from them
    exact, exact_logits = generate(folder, few, tmp_path, "--dtype", "f32")

    torch.set_num_threads(os.cpu_count() or 1)
    model = w8a8_oracle.load(folder, tmp_path / "plain")
    relative, agreement = compare(model, given, made, logits, (0, 1, 5, 13))
    print(f"bf16 activations: relative error {relative:.2e}, tokens equal {agreement:.1%}")
    assert relative < 0.06 and agreement > 0.8
    relative, agreement = compare(model, few, exact, exact_logits, (0, 1))
    print(f"f32 activations: relative error {relative:.2e}, tokens equal {agreement:.1%}")
    assert relative < 0.05 and agreement > 0.9
