"""Runs hostile and mutated inputs and counts how they end: `python tests/hostile_campaign.py --hostile 1000 --mutated 3000`.

Each input is run in a process forked from this one, which has imported torch. It fails if it ends otherwise than with status 0, 1
or 2, prints a traceback, takes more than 5 s of processor time, or 500 MB more than a process that does nothing.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the script's folder comes first, and `tests/ops` would hide `ops`

import hostile

MOST_S, MOST_MB, KILL_S = 5.0, 500, 12
SIZES = (100, 1_000, 5_000, 20_000, 60_000)


@dataclass(frozen=True)
class Outcome:
    """How an input ended: its status (negative for a signal), what it printed (the end of it), its time and memory."""

    status: int
    printed: str
    cpu_s: float
    peak_mb: float

    def kind(self, idle_mb: float) -> str:
        if self.status == -signal.SIGXCPU or self.cpu_s > MOST_S:
            return "slow"
        if "Traceback (most recent call last)" in self.printed or self.status not in (0, 1, 2):
            return "traceback"
        if self.peak_mb - idle_mb > MOST_MB:
            return "large"
        return "ok" if self.status == 0 else "refused"


def warm_up() -> None:
    """Imports what commands import, so that every fork has it."""
    import torch

    from runner.cli.main import main
    from runner.driver.driver import registry

    torch.set_num_threads(1)
    registry()
    with tempfile.TemporaryDirectory() as folder:
        for command in (*hostile.GRAPH_COMMANDS[:6], ("config", "show", *hostile.TINY)):
            arguments = ["head" if part == "g.yaml" else part.replace("out.", f"{folder}/out.") for part in command]
            with suppress(SystemExit), open(os.devnull, "w") as nowhere:
                kept = sys.stdout, sys.stderr
                sys.stdout = sys.stderr = nowhere
                try:
                    main(arguments)
                finally:
                    sys.stdout, sys.stderr = kept


def run(case: hostile.Case) -> Outcome:
    """The case, in a folder and a process of its own."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as out:
        for name, data in case.files.items():
            (Path(folder) / name).write_bytes(data)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _child(folder, out.fileno(), case.command)
        _, status, usage = os.wait4(child, 0)
        size = out.seek(0, io.SEEK_END)
        out.seek(max(0, size - 20_000))
        printed = out.read().decode(errors="replace")
    return Outcome(os.waitstatus_to_exitcode(status), printed, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _child(folder: str, out: int, command: tuple[str, ...]) -> None:
    """Ends this process with the command's status, 99 where it raised."""
    status = 99
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (KILL_S, KILL_S + 1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(number, "w", closefd=False), "utf-8") for number in (1, 2))
        os.chdir(folder)
        if command:
            from runner.cli.main import main as command_line

            command_line(list(command))
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def cases(num_hostile: int, num_mutated: int, seed: int, checkpoint: Path) -> Iterator[hostile.Case]:
    """Every form in turn, in an order that the seed decides, at sizes up to 1 MiB; then mutants of every valid file in turn."""
    rng = random.Random(seed)
    forms = rng.sample(hostile.FORMS, len(hostile.FORMS))
    for number in range(num_hostile):
        yield hostile.shape(forms[number % len(forms)], int(rng.choice(SIZES) * rng.uniform(0.5, 1.5)), rng)
    known = hostile.valid(checkpoint)
    rng.shuffle(known)
    for number in range(num_mutated):
        yield hostile.mutant(known, number, rng)


def campaign(num_hostile: int, num_mutated: int, seed: int, report: bool = False) -> tuple[Counter[str], list[str]]:
    """How many ended how, and a line for each that should not have."""
    warm_up()
    counts, failed, started = Counter[str](), list[str](), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        made = run(hostile.Case("model", {}, ("checkpoint", "init", *hostile.TINY, "--set", "num_hidden_layers=1", str(model))))
        assert made.status == 0, made.printed
        idle_mb = run(hostile.Case("idle", {}, ())).peak_mb
        for number, case in enumerate(cases(num_hostile, num_mutated, seed, model), 1):
            outcome = run(case)
            kind = outcome.kind(idle_mb)
            counts[kind] += 1
            if kind not in ("ok", "refused"):
                took = f"{outcome.cpu_s:.1f} s, {outcome.peak_mb - idle_mb:,.0f} MB, status {outcome.status}"
                last = outcome.printed.strip().rpartition("\n")[2][:200]
                failed.append(f"{kind}: {case.name}: {' '.join(case.command)}: {took}: {last}")
                if report:
                    print(failed[-1], flush=True)
            if report and number % 200 == 0:
                print(f"{number:,} inputs, {time.monotonic() - started:.0f} s: {dict(counts)}", flush=True)
    return counts, failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hostile", type=int, default=1_000, help="inputs that ask for much")
    parser.add_argument("--mutated", type=int, default=3_000, help="valid files with damage")
    parser.add_argument("--seed", type=int, default=11)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:  # no result of an earlier campaign stands for this one's
        os.environ["RINGGRAPH_CACHE"] = cache
        _report(given)


def _report(given: argparse.Namespace) -> None:
    counts, failed = campaign(given.hostile, given.mutated, given.seed, report=True)
    print(f"{sum(counts.values()):,} inputs: " + ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items())))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
