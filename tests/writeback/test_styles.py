"""Random graphs in random styles x every strategy: what `--write` changes is scopes and nothing else, as it promised, once.

`pytest -m slow tests/writeback/test_styles.py` takes 1,000 graphs; RINGGRAPH_SEEDS=200:400 takes others.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.base.errors import RinggraphError
from runner.driver.driver import Setup
from runner.driver.linting import lint_texts
from runner.driver.planning import MinpeakOptions, PlanRequest, PlanResult, plan
from runner.language import library
from runner.language.library import GraphLibrary
from runner.program.equivalence import refuse_other_work
from runner.program.ops import OpRegistry
from runner.program.program import Program
from runner.writeback.edits import write_files
from runner.writeback.splices import spliced
from schedulers.written import search
from tests.writeback.kept import check_kept, check_splices, loader_of
from tests.writeback.styles import random_graph, random_stage, spelled

STRATEGIES = ("annotated", "unscoped", "manual", "auto", "autoscope", "minpeak")

OPS = OpRegistry()
OPS.op("join", "a: f32[N, M], b: f32[K, M] -> y: f32[P, M]", core="AIV")(lambda a, b, *, y: None)
SETUP = Setup(ops=OPS)

REASONS = {
    "an alloc inside": "its alloc stands inside",
    "an alias": "used again",
    "blocks": "lies in another block",
    "an after": "'after' names",
    "a spelling": "is written so that it would change",
    "other waits": "would not do what",
    "lint": "lint would find",
    "a name": "unknown tensor",
    "trips": "has another scope than",
    "a closed scope": "is read after its scope",
}
"""Why something was refused; docs/schedulers.md says each."""


def program_of(path: Path) -> Program:
    return SETUP.program(path)


def findings(path: Path) -> list[str]:
    return [str(finding) for finding in lint_texts(SETUP, path, GraphLibrary())]


def written_graph(folder: Path, seed: int) -> Path:
    """A random graph and a stage that it may use, in files of a folder, of which lint finds nothing: no reader of YAML takes a
    tab everywhere, and a branch may leave a tensor unread."""
    rng = random.Random(seed)
    path = folder / "made.yaml"
    while True:
        (folder / "stage.yaml").write_bytes(spelled(random_stage(rng), rng))
        path.write_bytes(spelled(random_graph(rng), rng))
        with suppress(RinggraphError):
            if not findings(folder / "stage.yaml") and not findings(path):
                return path


def figures(found: PlanResult) -> list[tuple[int, int, int]]:
    return [(ring.safe_bytes, ring.robust_bytes, ring.num_tasks) for ring in found.report.rings]


# --- what must not change ---------------------------------------------------------------------------------------------


def loaded(data: bytes) -> Any:
    text = data.decode("utf-8-sig")
    return yaml.load(text, Loader=loader_of(text))


def flat(body: Any) -> list[Any]:
    """A body without its scopes and allocs, where an output that makes a tensor only names it."""
    found = []
    for item in body if isinstance(body, list) else [body]:
        if "scope" in item:
            found += flat(item["body"])
        elif "alloc" not in item:
            item = dict(item)
            for key in ("body", "then", "else"):
                if key in item:
                    item[key] = flat(item[key])
            if "out" in item:
                item["out"] = {
                    operand: region.partition(":")[0] if ": f32" in region else region for operand, region in item["out"].items()
                }
            found.append(item)
    return found


def check_only_scopes_changed(before: bytes, after: bytes) -> None:
    """What a reader sees of it: blanks in texts, and keys, which `check_kept` does not look at."""
    check_kept(before, after)
    old, new = (loaded(data) for data in (before, after))
    assert {key: value for key, value in old.items() if key != "body"} == {
        key: value for key, value in new.items() if key != "body"
    }
    assert flat(old["body"]) == flat(new["body"])
    assert before.endswith(b"\n") == after.endswith(b"\n")


# --- the campaign -----------------------------------------------------------------------------------------------------


def outcome(path: Path, strategy: str) -> str:
    """Plans with `--write`, writes, and checks all of it; says what became of it."""
    texts = {file: file.read_bytes() for file in path.parent.iterdir()}
    before = program_of(path)
    request = PlanRequest(path, strategy, write=True, allow_missing_edges=True, minpeak=MinpeakOptions(no_share=True))
    try:
        found = plan(SETUP, request)
    except RinggraphError as error:
        assert texts == {file: file.read_bytes() for file in path.parent.iterdir()}
        return f"refused: {reason_of(str(error), path)}"
    write_files(found.texts)
    for file, data in texts.items():
        for changes in found.written.rounds:
            after = spliced(data, changes[file]) if file in changes else data
            check_splices(data, changes.get(file, ()), after)
            data = after
        assert data == file.read_bytes()
    for file, data in texts.items():
        check_only_scopes_changed(data, file.read_bytes())
        assert (file in found.texts) == (data != file.read_bytes())
    assert findings(path) == []
    assert figures(plan(SETUP, PlanRequest(path, allow_missing_edges=True))) == figures(found)
    refuse_other_work(before, program_of(path))
    again = plan(SETUP, request)
    assert again.texts == {} and figures(again) == figures(found)
    left = sorted({reason_of(one, path) for one in found.written.left_out})
    done = "written" if found.texts else "nothing to write"
    return f"{done}, {len(found.written.left_out)} left out: {', '.join(left)}" if left else done


def reason_of(error: str, path: Path) -> str:
    reason = next((name for name, words in REASONS.items() if words in error), None)
    assert reason is not None and str(path.parent) in error and not re.search(r"\bG\d\d\d\b", error), error
    return reason


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """minpeak tries its first 100 candidates, and a text is checked once, however often it is read."""
    every = search.WrittenCuts.candidates
    monkeypatch.setattr(search.WrittenCuts, "candidates", lambda *given: islice(every(*given), 100))
    monkeypatch.setattr(library, "check_data", lru_cache(8)(library.check_data))


def campaign(folder: Path, seeds: range, every: int = 50) -> dict[str, Counter[str]]:
    """What became of each graph under each strategy, printed after so many graphs."""
    counts: dict[str, Counter[str]] = {strategy: Counter() for strategy in STRATEGIES}
    for seed in seeds:
        path = written_graph(folder, seed)
        texts = {file: file.read_bytes() for file in folder.iterdir()}
        for strategy in STRATEGIES:
            for file, data in texts.items():
                file.write_bytes(data)
            try:
                counts[strategy][outcome(path, strategy)] += 1
            except Exception as error:
                raise AssertionError(f"seed {seed}, {strategy}: {error}\n{path.read_text()}") from error
        if (seed + 1) % every == 0:
            print(f"after seed {seed}: { ({strategy: dict(found) for strategy, found in counts.items()}) }", flush=True)
    return counts


def test_what_is_written_is_scopes_and_nothing_else(tmp_path: Path) -> None:
    counts = campaign(tmp_path, range(6))
    assert counts["minpeak"]["written"] >= 3 and counts["autoscope"]["written"] >= 3
    assert not any(name.startswith("refused") for name in counts["minpeak"])


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_thousand_graphs_in_a_thousand_styles(tmp_path: Path) -> None:
    first, _, end = os.environ.get("RINGGRAPH_SEEDS", "0:1000").partition(":")
    counts = campaign(tmp_path, range(int(first), int(end)))
    for strategy, found in counts.items():
        print(f"{strategy}: {dict(found)}")
    assert not any(name.startswith("refused") for name in counts["minpeak"])
