"""Written files say the plan that is reported, of the programs of `python -m docs.figures balanced` and of Qwen3 in full size.

They take its bytes and its time, lint finds nothing, a second run writes nothing, and they give the same results, bit for bit.
`pytest -m slow tests/writeback/test_reproduced.py` prints for each what the plan takes that no file can say, and what files take.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pytest
from safetensors.torch import load_file

from docs.figures.cases import CASES
from runner import Driver
from runner.driver.driver import Setup
from runner.driver.linting import lint
from runner.driver.planning import MinpeakOptions, PlanRequest, PlanResult, TimedOptions, plan
from runner.driver.shares.written import SLOWER
from runner.writeback.edits import write_files

KIB, MIB = 1024, 2**20

SCREEN = 50
"""Lines of one."""


@dataclass(frozen=True)
class Case:
    """What is written, what it may take at most in MiB if that is known, and options with which it is run."""

    setup: Setup
    graph: str
    folder: str
    timed: TimedOptions
    routing: str
    run: tuple[str, ...]
    most_mib: float | None = None


TINY = ("--config", "tiny", "--set", "num_hidden_layers=6", "--set", "compress_ratios=[0, 0, 4, 128, 4, 128, 0]")


def flash_cases() -> dict[str, Case]:
    """Those of the figures; of the chunked program no plan takes as little as it was to take (`test_chunked_bound.py`)."""
    found = {}
    for entry in CASES["balanced"]:
        setup = Driver(entry["configs"], entry["sets"], ep=entry["ep"]).setup
        run = (
            *TINY,
            "--deploy",
            entry["graph"].removesuffix("_fwd"),
            *(text for one in entry["sets"] for text in ("--set", one)),
        )
        most = None if entry["picture"].startswith("chunked") else entry["most_mib"]
        timed = TimedOptions(**entry["timing"])
        found[entry["picture"]] = Case(setup, entry["graph"], "deepseek_v4", timed, "random:0", run, most)
    return found


def qwen3_cases() -> dict[str, Case]:
    run = ("--config", "qwen3-tiny")
    return {
        f"{config} {graph}": Case(Driver((config,)).setup, graph, "qwen3", TimedOptions(), "bound", run)
        for config in ("qwen3-14b", "qwen3-32b")
        for graph in ("qwen3_decode", "qwen3_prefill")
    }


ALL = flash_cases() | qwen3_cases()


def figures(found: PlanResult) -> tuple[int, float]:
    """Bytes and microseconds."""
    assert found.report.makespan_us is not None
    return found.report.safe_total_bytes, found.report.makespan_us


def shown(size_bytes: int, makespan_us: float) -> str:
    return f"{size_bytes / MIB:.2f} MiB, {makespan_us / 1000:.2f} ms"


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", ALL)
def test_written_files_say_the_plan(call, capsys, tmp_path: Path, name: str) -> None:
    case = ALL[name]
    for file in (Path(str(files("graphs"))) / case.folder).glob("*.yaml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path, before = tmp_path / f"{case.graph}.yaml", {file: file.read_bytes() for file in tmp_path.iterdir()}

    def request(scheduler: str, *, write: bool) -> PlanRequest:
        return PlanRequest(path, scheduler, routing=case.routing, timed=case.timed, rings=("safe", None, None), write=write)

    def results() -> dict:
        out = tmp_path / "out.safetensors"
        code, _, err = call("run", path, *case.run, "--seed", 3, "--dump", "logits", "--out", out)
        assert code == 0, err
        return load_file(out)

    wanted = results()
    found = plan(case.setup, request("minpeak", write=True))
    write_files(found.texts)
    assert found.unwritten is not None
    said, written = figures(found), plan(case.setup, request("annotated", write=False))
    free = found.unwritten["total_bytes"], found.unwritten["makespan_us"]
    with capsys.disabled():
        print(f"\n{name}: plan {shown(*free)}; written {shown(*figures(written))}")
    assert abs(figures(written)[0] - said[0]) <= 3 * KIB
    assert figures(written)[1] == pytest.approx(said[1], rel=0.02)
    assert said[0] <= free[0] + 3 * KIB
    assert case.most_mib is None or said[0] <= case.most_mib * MIB
    assert found.plan is not None and found.plan.certificate.time is not None
    time = found.plan.certificate.time
    assert said[1] <= max(time.fastest_us * (1 + time.slack), SLOWER * free[1])
    assert lint(case.setup, [path]).findings == []
    after = results()
    assert wanted.keys() == after.keys() and all(wanted[key].equal(after[key]) for key in wanted)
    assert all(wanted[key].argmax(-1).equal(after[key].argmax(-1)) for key in wanted)
    for file, data in before.items():
        assert len(file.read_bytes().splitlines()) - len(data.splitlines()) <= 2 * SCREEN
    assert plan(case.setup, request("minpeak", write=True)).texts == {}


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["balanced", "total"])
@pytest.mark.parametrize("graph", ["attention_decode_csa", "attention_decode_hca", "attention_decode_swa", "attend_tile"])
def test_written_files_cost_no_time(tmp_path: Path, graph: str, objective: str) -> None:
    """Under the fewest bytes, too, lists that take as few are no slower than the plan; each ring takes a KiB at least."""
    for file in (Path(str(files("graphs"))) / "deepseek_v4").glob("*.yaml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    minpeak = MinpeakOptions(objective=objective)
    request = PlanRequest(tmp_path / f"{graph}.yaml", "minpeak", minpeak=minpeak, rings=("safe", None, None), write=True)
    found = plan(Driver(("tiny",)).setup, request)
    assert found.unwritten is not None
    assert figures(found)[0] <= found.unwritten["total_bytes"] + 3 * KIB
    assert figures(found)[1] <= found.unwritten["makespan_us"] * 1.02


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["attention_decode_csa", "attention_decode_hca", "attend_tile", "o_proj_decode"])
def test_written_files_are_as_fast_within_a_budget(tmp_path: Path, graph: str) -> None:
    """Within the bytes that a balanced plan's files take, and in all that a run can use, they are hardly slower than the plan."""
    for file in (Path(str(files("graphs"))) / "deepseek_v4").glob("*.yaml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())

    def written(minpeak: MinpeakOptions) -> PlanResult:
        request = PlanRequest(tmp_path / f"{graph}.yaml", "minpeak", minpeak=minpeak, rings=("safe", None, None), write=True)
        return plan(Driver(("tiny",)).setup, request)

    most = figures(written(MinpeakOptions()))[0]
    for options in (MinpeakOptions(budget=f"{most}B"), MinpeakOptions(objective="makespan")):
        found = written(options)
        assert found.unwritten is not None
        assert options.budget is None or figures(found)[0] <= most
        assert figures(found)[1] <= found.unwritten["makespan_us"] * 1.05
