"""`ringgraph schedule`, `ring-heap replay` and `scope-stats`, as a user calls them."""

import json

import pytest
from places import DATA

pytestmark = pytest.mark.usefixtures("short_searches")

CAPTURES = DATA / "captures"
CONFORMANCE = DATA / "conformance"
MOE = ("moe", "--config", "tiny", "--deploy", "prefill", "--ep", "2")
RING_KEYS = {
    "ring", "capacity_bytes", "high_water_bytes", "occupancy_bytes", "peak_bytes", "least_bytes", "robust_bytes", "safe_bytes",
    "num_blocks", "num_tasks", "peak_scope",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_ring_sizes_in_the_environment(monkeypatch):
    for name in ("PTO2_RING_HEAP", "PTO2_RING_TASK_WINDOW", "PTO2_RING_DEP_POOL"):
        monkeypatch.delenv(name, raising=False)


# --- schedule ---------------------------------------------------------------------------------------------------------


def test_schedule_as_json_has_the_documented_keys(call):
    code, out, _ = call("schedule", *MOE, "--ring-heap", "1GiB", "--json")
    found = json.loads(out)
    assert code == 0
    assert {"rings", "peak_live_bytes", "num_tasks", "safe_total_bytes", "deadlock"} <= set(found)
    assert [ring["ring"] for ring in found["rings"]] == [0, 1, 2, 3]
    assert all(set(ring) >= RING_KEYS for ring in found["rings"])
    assert found["deadlock"] is None
    assert found["safe_total_bytes"] == sum(ring["safe_bytes"] for ring in found["rings"])
    assert found["num_tasks"] == sum(ring["num_tasks"] for ring in found["rings"])


def test_least_runs_and_a_kibibyte_less_is_refused(call):
    _, out, _ = call("schedule", *MOE, "--json")
    least = [ring["least_bytes"] for ring in json.loads(out)["rings"]]
    code, _, _ = call("schedule", *MOE, "--ring-heap", ",".join(map(str, least)))
    assert code == 0
    least[1] -= 1024
    code, out, err = call("schedule", *MOE, "--ring-heap", ",".join(map(str, least)))
    assert code == 1 and out.startswith("'moe' does not fit: it deadlocks on ring 1 of heaps of ")
    assert err.startswith("error: HEAP_RING_DEADLOCK: ring 1 cannot hold '")
    assert "are pinned by the open scope 'experts' (oldest block: '" in err
    assert err.count("moe.yaml:") == 3
    assert f"smallest capacity that works: {least[1] + 1024:,} (--ring-heap {least[0]},{least[1] + 1024}," in err


def test_the_sizes_of_a_refusal_work_when_pasted(call, monkeypatch):
    _, _, err = call("schedule", *MOE, "--ring-heap", "64KiB", "--ring-window", "64")
    lines = dict(line.strip().split("=") for line in err.splitlines() if line.strip().startswith("PTO2_"))
    assert set(lines) == {"PTO2_RING_HEAP", "PTO2_RING_TASK_WINDOW"}
    for name, value in lines.items():
        monkeypatch.setenv(name, value)
    code, _, _ = call("schedule", *MOE)
    assert code == 0


def test_a_refusal_as_json_is_one_object(call):
    code, out, err = call("schedule", *MOE, "--ring-heap", "64KiB", "--json")
    deadlock = json.loads(out)["deadlock"]
    assert (code, err, deadlock["code"], deadlock["name"]) == (1, "", 2, "HEAP_RING_DEADLOCK")
    assert ":" in deadlock["mark"] and deadlock["remedies"][0].startswith("PTO2_RING_HEAP=")


def test_safe_sizes_can_be_asked_for(call):
    _, out, _ = call("schedule", *MOE, "--ring-heap", "safe", "--json")
    found = json.loads(out)
    assert found["deadlock"] is None
    assert all(ring["capacity_bytes"] == ring["safe_bytes"] for ring in found["rings"])


def test_a_pool_that_lagging_execution_fills_is_refused_under_any_model(call):
    for model in ("eager", "lagging"):
        code, _, err = call("schedule", *MOE, "--ring-pool", "128", "--progress", model)
        assert code == 1
        assert err.startswith("error: DEP_POOL_OVERFLOW: ring 1 has no pool entries for the edges of '")
        assert "PTO2_RING_DEP_POOL=" in err


def test_a_window_that_is_too_small_names_its_remedy(call):
    code, _, err = call("schedule", *MOE, "--ring-window", "16")
    assert code == 1
    assert err.startswith("error: SCOPE_DEADLOCK: ring 0 has no slot for '")
    assert "PTO2_RING_TASK_WINDOW=" in err


OPTIONS = {"--ring-heap": "robust_bytes", "--ring-window": "least_window", "--ring-pool": "pool_bound"}


@pytest.mark.parametrize("option", ["--ring-window", "--ring-pool"])
@pytest.mark.parametrize("progress", ["eager", "lagging", "timed"])
def test_a_size_is_refused_just_below_the_bound_and_the_refusal_gives_the_option(call, option, progress):
    """Not by one replay: the pool's bound is that of every interleaving."""
    _, out, _ = call("schedule", *MOE, "--json")
    enough = [max(4, ring[OPTIONS[option]]) for ring in json.loads(out)["rings"]]
    short = [size // 2 if size > 4 and option == "--ring-window" else max(4, size - 1) for size in enough]
    asked = lambda sizes: (option, ",".join(map(str, sizes)), "--progress", progress)  # noqa: E731
    assert call("schedule", *MOE, *asked(enough))[0] == 0
    code, out, err = call("schedule", *MOE, *asked(short))
    assert code == 1 and out.startswith("'moe' does not fit") and f"{option} {','.join(map(str, enough))}" in err
    code, out, _ = call("schedule", *MOE, *asked(short), "--json")
    found = json.loads(out)
    assert code == 1 and f"{option} {','.join(map(str, enough))}" in found["refused"]


def test_manual_without_edges_is_refused_and_can_be_allowed(call):
    graph = ("prefill_fwd", "--config", "tiny", "--scheduler", "manual", "--ring-heap", "1GiB")
    code, _, err = call("schedule", *graph)
    assert code == 1
    assert "error V6: no edge orders 'layer_0.moe.experts.e0.t0.exp_gate_up_act' after" in err
    code, out, err = call("schedule", *graph, "--allow-missing-edges")
    assert code == 0
    assert "warning: no edge orders" in err
    assert "scheduler manual" in out


def test_progress_models_agree_on_what_is_needed(call):
    found = {}
    for model in ("eager", "lagging", "timed"):
        _, out, _ = call("schedule", *MOE, "--progress", model, "--task-us", "5", "--cores", "unlimited", "--json")
        found[model] = json.loads(out)
    needs = [[(r["least_bytes"], r["robust_bytes"]) for r in f["rings"]] for f in found.values()]
    assert needs[0] == needs[1] == needs[2]
    for low, mid, high in zip(*(found[m]["rings"] for m in ("eager", "timed", "lagging")), strict=True):
        assert low["peak_bytes"] <= mid["peak_bytes"] <= high["peak_bytes"]
    assert found["timed"]["makespan_us"] == found["eager"]["makespan_us"]


def test_durations_from_a_profile(call, tmp_path):
    profile = tmp_path / "profile.json"
    _, out, _ = call("schedule", *MOE, "--task-us", "7", "--submit-us", "0", "--json")
    expected = json.loads(out)["makespan_us"]
    names = [json.loads(line)["op"] for line in _ops(call)]
    profile.write_text(json.dumps({"tasks": [], "ops": {name: {"mean_us": 7} for name in names}}))
    _, out, _ = call("schedule", *MOE, "--profile", profile, "--submit-us", "0", "--json")
    assert json.loads(out)["makespan_us"] == expected
    profile.write_text(json.dumps({"tasks": [], "ops": {}}))
    code, _, err = call("schedule", *MOE, "--profile", profile)
    assert code == 1 and "has no times of 'combine_push', 'combine_reduce'" in err
    profile.write_text("{}")
    assert "cannot read the profile" in call("schedule", *MOE, "--profile", profile)[2]
    assert "give one of them" in call("schedule", *MOE, "--profile", profile, "--task-us", "1")[2]


def _ops(call):
    _, out, _ = call("ops", "list", "--json")
    return [json.dumps({"op": op["name"]}) for op in json.loads(out)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--progress", "slow"), "error: --progress slow: expected one of eager, lagging, timed"),
        (("--scheduler", "aut"), "error: unknown scheduler 'aut'\nhint: did you mean 'auto'?"),
        (
            ("--routing", "randm:1"),
            "error: --routing randm:1: no such file\nhint: write bound, uniform, random:SEED or a JSON file",
        ),
        (("--routing", "random:x"), "error: --routing random:x: expected random:SEED with a non-negative integer"),
        (("--cores", "gpu=1"), "error: --cores gpu=1: got 'gpu=1'\nhint: write 'unlimited' or counts such as 'aic=24,aiv=48'"),
        (("--ring-heap", "1GB"), "error: --ring-heap=1GB: '1GB' is not a size"),
    ],
)
def test_bad_options_are_refused(call, arguments, message):
    code, out, err = call("schedule", *MOE, *arguments)
    assert (code, out) == (1, "")
    assert err.startswith(message)


# --- routing ----------------------------------------------------------------------------------------------------------


def _experts(call, routing):
    code, out, err = call("schedule", *MOE, "--routing", routing, "--ring-heap", "1GiB", "--json")
    assert code == 0, err
    return json.loads(out)["num_tasks"]


LOOPS = """
graph: loops
inputs: {x: "{act}[T, D]", %s: "i32[E, 1]", lengths: "i32[E, 1]"}
weights: {w: "{wd}[D]"}
outputs: {y: "{act}[T, D]"}
body:
  - {op: rms_norm, id: first, in: {x: x, w: w}, out: {y: y}}
  - for: t
    range: ceil(%s[0, 0] / ROW_TILE)
    max: 5
    body: [{op: rms_norm, id: a, in: {x: y, w: w}, out: {y: y}}]
  - for: u
    range: lengths[0, 0]
    max: 7
    body: [{op: rms_norm, id: b, in: {x: y, w: w}, out: {y: y}}]
"""


def test_routing_decides_loops_over_rows_of_experts_alone(call, tmp_path):
    """Other loops make their most trips, which is said; where nothing depends on routing, it has no effect, which is said too."""
    graph, rows = tmp_path / "g.yaml", tmp_path / "rows.json"
    rows.write_text(json.dumps([[32] * 16]))

    def planned(name, routing):
        graph.write_text(LOOPS % (name, name))
        code, out, err = call("schedule", graph, "--config", "tiny", "--routing", routing, "--json")
        assert code == 0, err
        return json.loads(out)["num_tasks"], json.loads(out)["routing_notes"]

    assert planned("recv_count", "bound") == planned("count", "bound") == (1 + 5 + 7, [])
    tasks, notes = planned("recv_count", rows)
    assert tasks == 1 + 2 + 7 and notes == [
        f"--routing {rows} decides loops over rows of experts alone; 'u' makes its most trips"
    ]
    for routing in ("random:0", "uniform", rows):
        tasks, notes = planned("count", routing)
        assert tasks == 1 + 5 + 7
        assert notes == [f"--routing {routing} has no effect: no loop of 'loops' depends on the rows of experts"]


def test_loops_whose_counts_dispatch_makes_are_decided(call):
    for graph in ("moe", "prefill_fwd"):
        code, out, err = call("schedule", graph, *MOE[1:], "--routing", "random:0", "--json")
        assert code == 0 and json.loads(out)["routing_notes"] == [] and "note: --routing" not in err
    code, _, err = call("frontier", "head", "--config", "tiny", "--points", "1", "--routing", "uniform")
    assert code == 0 and "note: --routing uniform has no effect: no loop of 'head' depends on the rows of experts" in err
    code, _, err = call("schedule", "head", "--config", "tiny", "--routing", "random:0")
    assert code == 0 and "note: --routing random:0 has no effect: no loop of 'head' depends on the rows of experts" in err


def test_routing_sources_give_trip_counts(call, tmp_path):
    """Each tile is six tasks; a rank has eight of the tiny preset's experts, each gets at most T * ep = 256 rows, 16 tiles."""
    bound = _experts(call, "bound")
    rows = tmp_path / "rows.json"
    rows.write_text("[[0, 0, 0, 0, 0, 0, 0, 0]]")
    none = _experts(call, rows)
    rows.write_text("[[16, 17, 0, 256, 0, 0, 0, 0]]")
    assert _experts(call, rows) - none == 6 * (1 + 2 + 0 + 16)
    assert bound - none == 6 * 8 * 16
    assert none < _experts(call, "uniform") < bound
    assert _experts(call, "random:1") == _experts(call, "random:1")


@pytest.mark.parametrize(
    ("span", "trips"),
    [("recv_count[e, 0]", 100), ("ceil(recv_count[e, 0] / (2 * ROW_TILE))", 4), ("max(recv_count[e, 0] - 90, 1)", 10)],
)
def test_a_routing_evaluates_the_range_of_the_loop(call, tmp_path, span, trips):
    path, rows = tmp_path / "g.yaml", tmp_path / "rows.json"
    body = f'{{for: e, range: 2, body: [{{for: t, range: "{span}", max: 200, body: [{{alloc: {{b: "f32[4]"}}}}]}}]}}'
    path.write_text(f'graph: g\ninputs: {{recv_count: "i32[2, 1]"}}\nbody: [{body}]\n')
    rows.write_text("[[100, 0]]")
    code, out, _ = call("schedule", path, "--config", "tiny", "--routing", rows, "--json", "--ring-window", "1024")
    least = 1 if span.startswith("max") else 0
    assert code == 0 and sum(ring["num_blocks"] for ring in json.loads(out)["rings"]) == trips + least


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "expected a list of stages, each a list of row counts"),
        ("[[1, true]]", "expected a list of stages"),
        ("oops", "Expecting value"),
        ("[[1]]", "stage 0 has 1 experts, but 'experts.e1.t' needs number 1"),
        ("[[0, 0, 0, 257, 0, 0, 0, 0]]", "stage 0 sends 257 rows to expert 3 of rank 0, but it can receive 256"),
    ],
)
def test_bad_routing_files_are_refused(call, tmp_path, text, message):
    path = tmp_path / "rows.json"
    path.write_text(text)
    code, _, err = call("schedule", *MOE, "--routing", path)
    assert code == 1 and message in err


# --- ring-heap replay -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["05_loop_inner_scope", "10_deadlock_scope_gated"])
def test_replay_prints_the_conformance_format(call, name):
    path = CONFORMANCE / f"{name}.json"
    code, out, _ = call("ring-heap", "replay", path, "--json")
    recorded = json.loads(path.read_text())
    assert code == 0
    assert json.loads(out) == {key: recorded[key] for key in ("outcome", "records", "blocks")}


def test_replay_as_text_and_under_other_models(call):
    _, out, _ = call("ring-heap", "replay", CONFORMANCE / "13_scope_deadlock_window.json")
    assert out.startswith("SCOPE_DEADLOCK: ring 1 has no slot for 'a': 15 of 15 usable slots are pinned")
    for model in ("lagging", "timed"):
        for name in ("01_flat_alignment", "05_loop_inner_scope"):
            code, out, _ = call("ring-heap", "replay", CONFORMANCE / f"{name}.json", "--progress", model)
            assert code == 0 and out.startswith("ok\n")
    code, _, err = call("ring-heap", "replay", CONFORMANCE / "missing.json")
    assert code == 1 and "cannot read" in err


def test_replay_tells_what_of_a_run_that_died_is_a_guess(call):
    """The alloc that its ring had no room for was not recorded, so what is rebuilt runs: nobody is told that without a word."""
    code, out, err = call("ring-heap", "replay", CAPTURES / "died")
    assert code == 0 and out.startswith("ok\n")
    assert "note: a guess: the end of 2 scopes that the run left open: behind the last submission" in err
    assert json.loads(call("ring-heap", "replay", CAPTURES / "died", "--json")[1])["outcome"]["ok"]
    assert "guess" not in call("ring-heap", "replay", CONFORMANCE / "01_flat_alignment.json")[2]


# --- scope-stats ------------------------------------------------------------------------------------------------------


def test_scope_stats_are_written_shown_and_compared(call, tmp_path):
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    sizes = ("--ring-heap", "1GiB", "--progress", "eager")
    call("schedule", *MOE, *sizes, "--routing", "random:0", "--scope-stats", one)
    call("schedule", *MOE, *sizes, "--routing", "uniform", "--scope-stats", other)
    code, out, _ = call("scope-stats", "show", one)
    assert code == 0 and "2 scopes, complete, 0 records dropped, 0 unclosed" in out
    shown = json.loads(call("scope-stats", "show", one, "--json")[1])
    assert [row["ring"] for row in shown["scopes"]] == [0, 1]
    code, out, _ = call("scope-stats", "diff", one, other)
    assert code == 0 and "ring 1 parts at scope 0: moe.yaml:" in out
    code, out, _ = call("scope-stats", "diff", one, "--schedule", *MOE, "--routing", "random:0", "--progress", "eager")
    assert code == 0 and out.endswith("every scope allocates the same\n")
    assert "predicted with routing random:0, progress eager; timed assumes 0.5 us a submission, " in out
    predicted = ("--schedule", *MOE, "--routing", "random:0", "--progress", "eager")
    found = json.loads(call("scope-stats", "diff", one, *predicted, "--json")[1])
    assert found["routing"] == "random:0" and found["timing"]["submit_us"] == 0.5 and found["routing_notes"] == []
    _, _, err = call("scope-stats", "diff", one, "--schedule", "head", *MOE[1:], "--routing", "uniform")
    assert "note: --routing uniform has no effect" in err
    found = json.loads(call("scope-stats", "diff", one, other, "--json")[1])
    assert [place["ring"] for place in found["partings"]] == [1]
    assert call("scope-stats", "diff", one)[0] == 2


def test_scope_stats_of_a_deadlock_are_marked_fatal(call, tmp_path):
    path = tmp_path / "s.jsonl"
    code, _, _ = call("schedule", *MOE, "--ring-heap", "64KiB", "--scope-stats", path)
    assert code == 1
    assert json.loads(path.read_text().splitlines()[0])["fatal"] is True
    assert "ended by a fatal error" in call("scope-stats", "show", path)[1]


# --- what memory costs in time ----------------------------------------------------------------------------------------


def test_the_report_sets_the_stall_beside_that_with_unlimited_rings(call):
    """`unscoped` shares nothing: on rings that hold everything it makes exactly the run that the report calls unlimited."""
    timing = ("--task-us", "20")
    _, out, _ = call("schedule", *MOE, "--scheduler", "unscoped", "--ring-heap", "1GiB", "--progress", "timed", *timing, "--json")
    ample = json.loads(out)
    assert ample["unlimited_makespan_us"] == ample["makespan_us"]
    assert ample["unlimited_stall_us"] == ample["stall_us"]
    _, out, _ = call("schedule", *MOE, "--scheduler", "minpeak", "--ring-heap", "safe", *timing, "--json")
    small = json.loads(out)
    assert small["unlimited_makespan_us"] <= small["makespan_us"]
    _, out, _ = call("schedule", *MOE, "--scheduler", "minpeak", "--ring-heap", "safe", *timing)
    line = next(line for line in out.splitlines() if line.startswith("timed: "))
    shown = [small[name] for name in ("makespan_us", "stall_us", "unlimited_makespan_us", "unlimited_stall_us")]
    a, b, c, d = (f"{value / 1000:,.2f} ms" if value >= 1000 else f"{value:,.2f} us" for value in shown)
    assert line == f"timed: makespan {a}, submission stalled {b} of it; with unlimited rings {c} and {d}"


@pytest.mark.parametrize("command", [("size",), ("frontier", "--points", 1), ("schedule",)], ids=lambda command: command[0])
def test_heaps_that_shift_later_rings_are_told_by_all_that_plan(call, tmp_path, command):
    heaps = [5001, 4096, 4096, 4097]
    path = tmp_path / "odd.json"
    items = [{"scope": [{"task": "t", "outputs": [{"name": "x", "bytes": 1000}]}]}]
    path.write_text(json.dumps({"name": "odd", "program": {"items": items}, "capacities": {"ring_heap": heaps}}))
    name, *options = command
    code, _, err = call(name, path, *options)
    assert code == 0, err
    assert err.count("a heap of 5,001 bytes is no multiple of 1,024") == 1 and "4,097" not in err
