"""`make demo`: a tiny checkpoint, ragged prompts, tokens, on rings of the sizes that are known to be safe.

Everything is done by commands that are printed before they run, and lands in the folder `demo`.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TextIO

import torch

from runner import Driver, RinggraphError
from runner.cli.main import app
from runner.config.config import load_config

FOLDER = Path("demo")
LENGTHS = (1, 3, 17, 64, 127, 128, 200, 300)
"""Tokens of the prompts: across the window, the compression ratios and the prefill chunk."""
NEW_TOKENS = 32
CONFIG = load_config(["tiny"])
DECODE = CONFIG.family.serving(CONFIG).graphs["decode"]
"""The graph of a decode step."""


def command(*arguments: object, out: TextIO | None = None) -> None:
    """Prints and runs one `ringgraph` command, whose standard output goes to `out` if given; raises RinggraphError where it
    fails."""
    texts = [str(argument) for argument in arguments]
    print(f"\n$ ringgraph {' '.join(texts)}", flush=True)
    with redirect_stdout(out or sys.stdout):
        failed = app(args=texts, prog_name="ringgraph", standalone_mode=False, obj=texts)
    if failed:
        raise RinggraphError(f"'ringgraph {texts[0]}' failed")


def result(*arguments: object) -> str:
    """Like `command`, but what it prints on standard output is returned."""
    caught = io.StringIO()
    command(*arguments, out=caught)
    return caught.getvalue()


def compare_rings(run: tuple[object, ...], config: Path) -> None:
    """The same prompts on each strategy's safe rings: tokens must not change; then what the decode step's rings cost in time."""
    found = {
        name: json.loads(result(*run, "--ring-heap", "safe", "--scheduler", name, "--json")) for name in ("annotated", "minpeak")
    }
    if found["annotated"]["tokens"] != found["minpeak"]["tokens"]:
        raise RinggraphError("tokens depend on the scheduler")
    sizes = " and ".join(f"{sum(one['ring_heap_bytes']) / 2**20:.1f} MiB ({name})" for name, one in found.items())
    print(f"the same {found['minpeak']['new_tokens']} tokens on rings of {sizes}")
    for name in found:
        report = result("schedule", DECODE, "--config", config, "--ring-heap", "safe", "--scheduler", name)
        print(next(line for line in report.splitlines() if line.startswith("timed: ")))


def write_prompts(path: Path) -> None:
    """Random prompts of LENGTHS, the same in every run."""
    size, generator = CONFIG.family.vocabulary(CONFIG).size, torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, size, (length,), generator=generator).tolist() for length in LENGTHS]
    path.write_text(json.dumps(prompts), encoding="utf-8")


def draw(checkpoint: Path, out: Path) -> None:
    """A picture of the decode step's rings, where matplotlib is installed."""
    from runner.report.rings import draw_rings

    plan = Driver(checkpoint / "config.json").plan(DECODE, ring_heap="safe", progress="eager")
    draw_rings(plan.replay, out)
    print(f"\n{out}: the blocks of one decode step on their rings")


def main() -> None:
    """The whole demonstration."""
    checkpoint, prompts = FOLDER / "checkpoint", FOLDER / "prompts.json"
    shutil.rmtree(checkpoint, ignore_errors=True)
    FOLDER.mkdir(exist_ok=True)
    command("checkpoint", "init", "--config", "tiny", "--seed", 0, checkpoint)
    write_prompts(prompts)
    print(f"\n{prompts}: {len(LENGTHS)} prompts of {', '.join(map(str, LENGTHS))} tokens")
    run = ("generate", "--checkpoint", checkpoint, "--prompts", prompts, "--max-new-tokens", NEW_TOKENS, "--ignore-eos")
    command(*run, "--ring-heap", "safe", "--scope-stats", FOLDER / "scope_stats.jsonl")
    compare_rings(run, checkpoint / "config.json")
    command("dot", DECODE, "--config", checkpoint / "config.json", "--level", "stage", "-o", FOLDER / f"{DECODE}.dot")
    draw(checkpoint, FOLDER / "rings.svg")


if __name__ == "__main__":
    try:
        main()
    except (RinggraphError, OSError) as problem:
        sys.exit(f"error: {problem}")
