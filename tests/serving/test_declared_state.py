"""Declared state: rows are never shared and always come back, whatever is admitted, fed, fed again and released."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from runner.base.errors import ConfigError, Diagnostic, StateError
from runner.base.tensor_spec import TensorSpec
from runner.config.config import load_config
from runner.driver.face import Driver
from runner.language.given import read_layer
from runner.models.declared.state import StateDeclaration
from runner.models.declared.state_section import merged, read_state
from runner.serving.session import _require_inputs, _shared_states
from runner.serving.state.turns import next_call

NO_ROWS: dict[str, TensorSpec] = {}
FIELDS = {"longest": 24, "pages": 14, "window": 5, "ids": 50}
BOTH = """
state:
  longest: longest
  kinds:
    rows: {kind: paged, pages: pages, page: 4, table: 6}
    fourth: {kind: paged, pages: 9, page: 2, table: 3, every: 4}
    whole: {kind: contiguous, requests: 5, rows: longest}
    window: {kind: ring, pages: 10, page: 4, table: 2, keeps: window}
    near: {kind: ring, requests: 6, rows: 9, keeps: 3}
  inputs:
    ids: {tokens: ids}
    at: positions
    rows_table: {table: rows}
    rows_slots: {slots: rows}
    fourth_slots: {slots: fourth}
    whole_slots: {slots: whole}
    window_table: {table: window}
    window_slots: {slots: window}
    near_slots: {slots: near}
    near_taken: {generations: near}
    seen: lengths
    began: starts
    new: counts
    prompt: prompt_length
"""
RUNNING = """
state:
  kinds:
    hidden: {kind: running, requests: 4, holds: "*.hidden", axis: 1, clear: true}
  inputs:
    ids: tokens
    hidden_slots: {slots: hidden}
    of_request: {slots: hidden}
    taken: {generations: hidden}
    seen: lengths
"""


def declared(text, fields=FIELDS):
    """A declaration and everything that is wrong with it under `fields`."""
    problems: list[Diagnostic] = []
    section = read_layer(text, "f.yaml", problems).get("state")
    state, found = read_state(section)
    return state, [*problems, *found, *(state.problems(fields, {"act": "f32"}) if not found else [])]


def store(text=BOTH, fields=FIELDS, states=NO_ROWS) -> tuple[StateDeclaration, SimpleNamespace, object]:
    state, problems = declared(text, fields)
    assert problems == []
    settings = SimpleNamespace(values=fields, dtypes={"act": "f32"}, state=state)
    return state, settings, state.store(settings, states, "cpu")


def inputs(requests, seq, table=6):
    tokens = requests * seq
    names = ("ids", "at", "rows_slots", "fourth_slots", "whole_slots", "window_slots", "near_slots")
    found = {name: TensorSpec("i64", (tokens,)) for name in names}
    found |= {name: TensorSpec("i32", (requests,)) for name in ("near_taken", "seen", "began", "new", "prompt")}
    return {**found, "rows_table": TensorSpec("i32", (requests, table)), "window_table": TensorSpec("i32", (requests, 2))}


EVERY = {"rows": 1, "fourth": 4, "whole": 1, "window": 1, "near": 1}
"""Positions of a row of each kind."""
BACK = 4
"""How far a request may go back: the window's 8 rows keep 5."""


class Memory:
    """Rows of each kind as a naive reader sees them: who wrote each last, and at which position."""

    def __init__(self):
        self.rows = {kind: {} for kind in EVERY}

    def write(self, told, handles, seq):
        for kind, every in EVERY.items():
            slots = told[f"{kind}_slots"].tolist()
            written = [slot for slot in slots if slot >= 0]
            assert len(set(written)) == len(written), "two tokens of a call write one row"
            for token, (slot, position) in enumerate(zip(slots, told["at"].tolist(), strict=True)):
                assert slot < 0 or (position + 1) % every == 0
                if slot >= 0:
                    self.rows[kind][slot] = handles[token // seq], position

    def has(self, kind, handle, position):
        return (handle, position) in self.rows[kind].values()

    def forget(self, handle):
        """The request has ended: another may write its rows from here on."""
        self.rows = {kind: {s: row for s, row in rows.items() if row[0] != handle} for kind, rows in self.rows.items()}

    def owners(self):
        return {(kind, slot): row[0] for kind, rows in self.rows.items() for slot, row in rows.items()}


@pytest.mark.parametrize("seed", range(40))
def test_rows_are_of_one_request_come_back_and_outlast_going_back(seed):
    rng = random.Random(seed)
    _, _, state = store()
    free = {name: sorted(pool.free) for name, pool in state.requests.pools.items()}
    memory, live, capacity, reached = Memory(), {}, {}, {}
    for _ in range(60):
        choice = rng.random()
        if choice < 0.3:
            wanted = rng.randint(1, 24)
            try:
                handle = state.admit(wanted, rng.randint(0, wanted))
            except StateError as error:
                assert "no free pages" in str(error) and live
                continue
            live[handle], capacity[handle], reached[handle] = 0, wanted, 0
        elif choice < 0.45 and live:
            handle = rng.choice(sorted(live))
            state.release(handle)
            memory.forget(handle)
            del live[handle]
        elif live:
            seq = rng.choice((1, 2, 3, 12))
            chosen = rng.sample(sorted(live), min(len(live), rng.randint(1, 3)))
            rows = []
            for handle in chosen:
                back = rng.randint(0, 6) if rng.random() < 0.5 else 0
                start = max(live[handle] - back, 0)
                count = min(rng.randint(1, seq), capacity[handle] - start)
                rows.append((handle, [rng.randrange(50) for _ in range(count)], start))
            if any(not tokens for _, tokens, _ in rows):
                continue
            before = memory.owners()
            try:
                told = state.batch_inputs(rows, inputs(3, seq))
            except StateError as error:
                assert "goes on at position" in str(error)
                assert any(start < reached[handle] - BACK for handle, _, start in rows)
                continue
            assert all(start >= reached[handle] - BACK for handle, _, start in rows)
            for handle, tokens, start in rows:  # what the first token looks back at is still there
                for kind, keeps in (("window", 5), ("near", 3)):
                    assert all(memory.has(kind, handle, p) for p in range(max(start - keeps + 1, 0), start))
                assert all(memory.has("rows", handle, p) and memory.has("whole", handle, p) for p in range(start))
                assert all(memory.has("fourth", handle, p) for p in range(3, start, 4))
                live[handle] = start + len(tokens)
                reached[handle] = max(reached[handle], live[handle])
            memory.write(told, chosen + [None] * 3, seq)
            after = memory.owners()
            assert all(after[row] == owner for row, owner in before.items()), "a row of another request was written"
            assert told["seen"].tolist()[: len(rows)] == [live[handle] for handle in chosen]
            assert told["began"].tolist()[: len(rows)] == [start for _, _, start in rows]
    for handle in list(live):
        state.release(handle)
    assert {name: sorted(pool.free) for name, pool in state.requests.pools.items()} == free


def test_going_back_is_as_far_as_rings_allow():
    """The worked example of docs/state.md, and a second step back."""
    text = BOTH.replace("table: 2, keeps: window", "table: 2, keeps: 6").replace("rows: 9, keeps: 3", "rows: 20, keeps: 3")
    _, _, state = store(text)
    assert state.rollback == 3
    handle = state.admit(24)
    wanted = inputs(1, 20)
    state.batch_inputs([(handle, [0] * 20, 0)], wanted)
    with pytest.raises(StateError, match="goes on at position 16, expected 20"):
        state.batch_inputs([(handle, [0], 16)], wanted)
    state.batch_inputs([(handle, [0], 17)], wanted)
    assert state.length(handle) == 18
    with pytest.raises(StateError, match="goes on at position 15, expected 18"):
        state.batch_inputs([(handle, [0], 15)], wanted)
    state.batch_inputs([(handle, [0], 17)], wanted)


def test_a_running_state_is_cleared_and_counted_and_cannot_go_back():
    _, _, state = store(RUNNING, {}, {"a.hidden": TensorSpec("f32", (2, 4, 3)), "b.hidden": TensorSpec("f32", (1, 4))})
    wanted = {"ids": TensorSpec("i64", (4,)), "hidden_slots": TensorSpec("i64", (4,)), "of_request": TensorSpec("i64", (2,))}
    wanted |= {"taken": TensorSpec("i32", (2,)), "seen": TensorSpec("i32", (2,))}
    one, two = state.admit(), state.admit()
    for tensor in state.tensors.values():
        tensor.fill_(7)
    told = state.batch_inputs([(one, [1], 0), (two, [1, 2], 0)], wanted)
    a, b = told["of_request"].tolist()
    assert told["hidden_slots"].tolist() == [a, -1, b, b] and told["taken"].tolist() == [1, 1] and a != b
    with pytest.raises(StateError, match="goes on at position 1, expected 2"):
        state.batch_inputs([(two, [1], 1)], wanted)
    state.release(two)
    three = state.admit()
    told = state.batch_inputs([(three, [1], 0)], wanted)
    assert told["of_request"].tolist() == [b, -1] and told["taken"].tolist() == [2, -1] and told["seen"].tolist() == [1, 0]
    assert not state.tensors["a.hidden"][:, b].any() and state.tensors["a.hidden"][:, a].eq(7).all()
    assert state.tensors["b.hidden"][0].tolist() == [0 if slot == b else 7 for slot in range(4)]


WRONG = [
    ("kinds: {a: {kind: pagd, pages: 1, page: 1, table: 1}}", "f.yaml:2:15: error C103", "did you mean 'paged'?"),
    ("kinds: {a: {pages: 1, page: 1, table: 1}}", "state 'a' has no 'kind'", "kinds are paged"),
    ("kinds: {a: {kind: paged, pages: 1, page: 1}}", "needs 'table'", "paged: pages, page, table; and every"),
    ("kinds: {a: {kind: ring, pages: 1, page: 1, table: 1}}", "needs 'keeps'", "requests, rows"),
    ("kinds: {a: {kind: ring, pages: 1, page: 1, table: 1, rows: 2, keeps: 1}}", "has 'rows' beside 'pages'", "ring"),
    ("kinds: {a: {kind: running, requests: 1, rows: 2}}", "unknown key 'rows'", "keys are"),
    ("kinds: {a: {kind: running, requests: 1, clear: true}}", "'holds' names no state", ""),
    ("kinds: {a: {kind: running, requests: 1, holds: [1]}}", "'holds' is a list, expected names", ""),
    ("kinds: {a: {kind: running, requests: 1, axis: -1}}", "'axis' is -1", ""),
    ("kinds: {a: {kind: running, requests: 1}}", "no input tells a call where it lies", "{slots: a}"),
    ("kinds: {a: {kind: contiguous, requests: 1, rows: 1}}\n  inputs: {s: {slots: a}}", "'longest' is missing", ""),
    ("inputs: {x: posit}", "has no known role, 'posit'", "did you mean 'positions'?"),
    ("inputs: {x: slots}", "'slots' is of a kind", "write {slots: KIND}"),
    ("inputs: {x: {slots: a}}", "no kind of state is called 'a'", "kinds are none"),
    ("inputs: {x: {positions: a}}", "'positions' is of no kind", "write 'x: positions'"),
    ("inputs: {x: {slots: a, table: a}}", "has 2 roles, expected one", ""),
    ("inputs: {x: 3}", "input 'x' is 3 (an integer), expected a mapping", ""),
    ("kindz: {}", "unknown key 'kindz'", "did you mean 'kinds'?"),
    ("constants: {c: {theta: 3}}", "has no 'function'", "rope_cos"),
    ("constants: {c: {function: rope_coz, theta: 3}}", "rope_coz", "rope_cos"),
    ("constants: {c: {function: rope_cos}}", "needs 'theta'", ""),
    ("constants: {c: {function: identity, theta: 2}}", "takes no 'theta'", ""),
    ("constants: {c: {function: rope_cos, theta: 2, scaling: yarn}}", "needs 'factor', 'original', 'beta_fast'", ""),
    ("constants: {c: {function: rope_cos, theta: 2, columns: windw}}", "windw", "window"),
    ("gathers: {x: {keys: 3}}", "needs 'most'", ""),
    ("longest: longst\n  inputs: {x: positions}", "expression 'longst'", "did you mean 'longest'?"),
    (
        "longest: longest\n  kinds: {a: {kind: paged, pages: 9, page: 4, table: 5}}\n  inputs: {s: {slots: a}}",
        "f.yaml:3:47: error C104: state 'a' has 20 rows a request at most ('table: 5'), but the longest request of 24 positions",
        "or 'longest' less",
    ),
    (
        "kinds: {a: {kind: ring, requests: 9, rows: 4, keeps: window}}\n  inputs: {s: {slots: a}}",
        "keeps 5 positions in a ring of 4",
        "",
    ),
    ("kinds: {a: {kind: running, requests: 0}}\n  inputs: {s: {slots: a}}", "'a.requests' is 0, expected an integer of", ""),
    ("kinds: {a: {kind: running, requests: 4}}\n  inputs: {s: {slots: a}, k: {keys: a}}", "expected a ring", ""),
]


@pytest.mark.parametrize(("text", "message", "hint"), WRONG)
def test_a_wrong_declaration_is_told_with_its_place(text, message, hint):
    _, problems = declared(f"state:\n  {text}\n")
    told = [str(problem) for problem in problems]
    assert any(message in each and (not hint or hint in each.rpartition("hint: ")[2]) for each in told), told
    assert all(problem.mark is not None and problem.mark.file == "f.yaml" for problem in problems)


def test_everything_wrong_is_told_at_once():
    text = "state:\n  kinds: {a: {kind: x}, b: {kind: ring}}\n  inputs: {i: y, j: {slots: z}}\n  constants: {k: 4}\n"
    assert len(declared(text)[1]) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"at": TensorSpec("f32", (6,))}, "input 'at' (positions) is f32[6], expected i32 or i64"),
        ({"at": TensorSpec("i32", (5,))}, "input 'at' (positions) is i32[5], expected [6] in a call of 6 tokens of 3 requests"),
        ({"rows_table": TensorSpec("i32", (3, 5))}, "has room for 5 pages, but a request of state 'rows' has up to 6"),
        ({"window_table": TensorSpec("i32", (2, 2))}, "input 'window_table' (table) is i32[2, 2], expected [3, 2]"),
        ({"seen": TensorSpec("i32", (6,))}, "input 'seen' (lengths) is i32[6], expected [3]"),
    ],
)
def test_inputs_that_do_not_fit_their_roles_are_told(change, message):
    _, _, state = store()
    with pytest.raises(StateError) as refused:
        state.batch_inputs([], inputs(3, 2) | change)
    assert message in str(refused.value) and "f.yaml:" in str(refused.value)


def test_states_that_do_not_fit_their_kind_are_told():
    with pytest.raises(ConfigError, match=r"state 'a.hidden' is f32\[2, 5, 3\], expected 4 \('4'\) along axis 1"):
        store(RUNNING, {}, {"a.hidden": TensorSpec("f32", (2, 5, 3))})


def test_later_layers_add_inputs_and_replace_kinds():
    first = read_layer(RUNNING, "a.yaml", [])["state"]
    second = read_layer("state: {kinds: {hidden: {kind: running, requests: 9}}, inputs: {at: positions}}", "b.yaml", [])["state"]
    state, problems = read_state(merged([None, first, None, second]))
    assert problems == [] and {"at", "ids", "taken"} <= state.inputs.keys()
    assert state.sizes(SimpleNamespace(values={}, dtypes={})).kinds[0].pages == 9


@pytest.mark.parametrize(
    ("scaling", "fields"),
    [
        ("default", {}),
        ("linear", {"factor": 3.0}),
        ("llama3", {"factor": 4.0, "original": 64, "low": 1.0, "high": 4.0}),
        ("yarn", {"factor": 8.0, "original": 64, "beta_fast": 32.0, "beta_slow": 1.0, "scale": 1.25}),
    ],
)
@pytest.mark.parametrize("columns", ["twice", "once", "pairs"])
def test_rotary_tables_are_those_of_transformers(scaling, fields, columns):
    rope = pytest.importorskip("transformers.modeling_rope_utils").ROPE_INIT_FUNCTIONS
    names = {"original": "original_max_position_embeddings", "low": "low_freq_factor", "high": "high_freq_factor"}
    names |= {"scale": "attention_factor"}
    given = {names.get(key, key): value for key, value in fields.items()} | {"rope_type": scaling, "rope_theta": 500.0}
    from transformers import Qwen3Config

    config = Qwen3Config(head_dim=16, rope_parameters=given, max_position_embeddings=256)
    if scaling == "default":
        frequencies, scale = 1 / 500.0 ** (torch.arange(0, 16, 2) / 16), 1.0
    else:
        frequencies, scale = rope[scaling](config, "cpu")
    angles = torch.arange(200)[:, None] * frequencies
    spread = {"twice": lambda x: torch.cat((x, x), 1), "once": lambda x: x, "pairs": lambda x: x.repeat_interleave(2, 1)}[columns]
    arguments = ", ".join(
        f"{key}: {value}" for key, value in {**fields, "theta": 500, "scaling": scaling, "columns": columns}.items()
    )
    text = f"state: {{constants: {{c: {{function: rope_cos, {arguments}}}, s: {{function: rope_sin, {arguments}}}}}}}"
    _, _, state = store(text, {})
    spec = TensorSpec("f32", (200, 8 if columns == "once" else 16))
    made = state.batch_inputs([], {"c": spec, "s": spec})
    torch.testing.assert_close(made["c"], spread(angles.cos()) * scale, atol=1e-5, rtol=0)
    torch.testing.assert_close(made["s"], spread(angles.sin()) * scale, atol=1e-5, rtol=0)


def test_what_two_phases_do_not_agree_on_is_told_before_weights_are_loaded():
    """A state that each sizes by its own tokens, which the base layer lists as scratch, and an input without a role."""
    sets = ["num_hidden_layers=1"]
    programs = [Driver("tiny", sets).expand(graph) for graph in ("prefill_fwd", "decode_fwd")]
    config = load_config(["tiny"], sets)
    assert {"layers.0.kv_cache"} == _shared_states(config, programs).keys()
    with pytest.raises(
        ConfigError, match=r"state 'routed_y_buf' is f32.* in 'prefill_fwd' and f32.* in 'decode_fwd'\nhint: .*scratch"
    ):
        _shared_states(replace(config, state=replace(config.state, scratch=())), programs)
    _require_inputs(config.state.store(config, {}), programs)
    fewer = {name: role for name, role in config.state.inputs.items() if name != "prompt_len"}
    with pytest.raises(ConfigError, match=r"nothing tells a call of graph 'prefill_fwd' its input 'prompt_len' \(i32\[1\]\)"):
        _require_inputs(replace(config.state, inputs=fewer).store(config, {}), programs)


def test_a_first_call_has_room_to_go_on_where_pages_allow():
    """Of a pool too small for two of the longest requests, each takes what the call needs."""
    wanted = inputs(2, 3)
    for pages, capacity in ((14, 24), (11, 3)):
        fields = FIELDS | {"pages": pages}
        state, settings, _ = store(BOTH, fields)
        _, made = next_call(state, wanted, settings, seed=0)
        assert [request.capacity for request in made.requests.admitted.values()] == [capacity] * 2
        assert made.lengths == {0: 3, 1: 3}
