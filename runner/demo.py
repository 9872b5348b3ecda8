"""`make demo`: a tiny checkpoint, ragged prompts, tokens, on rings of the sizes that are known to be safe.

Everything is done by commands that are printed before they run, and lands in the folder `demo`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch

from runner.cli import app
from runner.errors import RinggraphError

FOLDER = Path("demo")
LENGTHS = (1, 3, 17, 64, 127, 128, 200, 300)
"""Tokens of the prompts: across the window, the compression ratios and the prefill chunk."""
NEW_TOKENS = 32
VOCAB = 512
"""Of the preset `tiny`."""


def command(*arguments: object) -> None:
    """Prints and runs one `ringgraph` command; raises RinggraphError where it fails."""
    texts = [str(argument) for argument in arguments]
    print(f"\n$ ringgraph {' '.join(texts)}", flush=True)
    if app(args=texts, prog_name="ringgraph", standalone_mode=False, obj=texts):
        raise RinggraphError(f"'ringgraph {texts[0]}' failed")


def write_prompts(path: Path) -> None:
    """Random prompts of LENGTHS, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, VOCAB, (length,), generator=generator).tolist() for length in LENGTHS]
    path.write_text(json.dumps(prompts), encoding="utf-8")


def draw(checkpoint: Path, out: Path) -> None:
    """A picture of the decode step's rings, where matplotlib is installed."""
    from runner.commands_common import program_of, resolve, schedule_of
    from runner.picture import draw_rings
    from runner.progress import eager
    from runner.ring_choice import safe_sizes

    program = program_of("decode_fwd", resolve([str(checkpoint / "config.json")]))
    schedule = schedule_of(program, "annotated")
    draw_rings(eager(schedule, safe_sizes([schedule])), out)
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
    command("dot", "decode_fwd", "--config", checkpoint / "config.json", "--level", "stage", "-o", FOLDER / "decode_fwd.dot")
    draw(checkpoint, FOLDER / "rings.svg")


if __name__ == "__main__":
    try:
        main()
    except (RinggraphError, OSError) as problem:
        sys.exit(f"error: {problem}")
