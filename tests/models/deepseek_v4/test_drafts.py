"""Decoding with drafts: tokens and state of single-token decoding, whatever is drafted; draft logits by another formula."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from draft_oracle import DraftOracle
from drafting import CONFIGS, FORCED, LENGTHS, Watch, agreeing, check_both, differences, opened, served, with_draft
from safetensors.torch import load_file, save_file
from test_parity import LIMIT, errors, in_order, prompts

from runner.checkpoint.convert import convert
from runner.config.config import load_config
from runner.driver.driver import registry
from runner.serving.generate import Row, generate
from runner.serving.session import ModelSession, Placement, open_session
from runner.serving.state.rollback import Before
from schedulers import get_scheduler

pytestmark = pytest.mark.usefixtures("same_programs")

SMALL = ("num_hidden_layers=3", "compress_ratios=[0,4,128,0]", "n_routed_experts=8", "vocab_size=256", "index_n_heads=16")
"""One layer of every kind."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return with_draft(tmp_path_factory.mktemp("drafts") / "tiny", *SMALL)


@pytest.fixture(scope="module")
def single(tiny):
    return opened(tiny, "decode")


@pytest.fixture(scope="module")
def double(tiny):
    return opened(tiny, "decode-mtp")


def check_against_single_steps(folder: Path, lengths, steps: int, ways=tuple(FORCED)) -> None:
    one, two = opened(folder, "decode"), opened(folder, "decode-mtp")
    check_both(one, two, prompts(lengths, one.vocabulary.size), steps, ways)


# --- tokens and state -------------------------------------------------------------------------------------------------


def test_tokens_logits_and_state_are_those_of_single_steps(tiny):
    check_against_single_steps(tiny, (1, 126, 127, 5), 7, ("proposed", "right", "mixed"))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration(name, tmp_path):
    folder = with_draft(tmp_path / "made", *CONFIGS[name], seed=3)
    check_against_single_steps(folder, LENGTHS, 64)


def check_agreement(folder: Path, lengths, steps: int) -> None:
    one, two = opened(folder, "decode"), opened(folder, "decode-mtp")
    given = prompts(lengths, one.vocabulary.size)
    expected, _, seen = served(one, given, steps)
    made, figures, drafted = served(two, given, steps)
    assert [g.tokens for g in made] == [g.tokens for g in expected]
    assert differences(drafted.states, seen.states) == {}
    assert figures.acceptance_rate == 1.0 and figures.tokens_per_step is not None
    assert figures.tokens_per_step == 2.0 or steps % 2 == 0


def test_a_draft_layer_that_always_agrees(tiny, tmp_path):
    check_agreement(agreeing(tiny, tmp_path / "agreeing"), (1, 5, 129), 9)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_draft_layers_that_always_agree(name, tmp_path):
    check_agreement(agreeing(with_draft(tmp_path / "made", *CONFIGS[name], seed=4), tmp_path / "agreeing"), LENGTHS, 64)


def draft_windows(watch: Watch) -> dict[tuple[int, int], dict[str, torch.Tensor]]:
    """The draft layer's own cache of every request at every length."""
    name = f"layers.{watch.session.config['DRAFT_LAYER']}.kv_cache"
    return {key: {name: state[name]} for key, state in watch.states.items()}


def test_the_draft_layers_own_window_does_not_depend_on_what_was_drafted(single, double):
    given = prompts((3, 128), 256)
    right = [g.tokens for g in served(single, given, 6)[0]]
    wrong, *others = (
        draft_windows(served(double, given, 6, force=FORCED[way], right=right)[2]) for way in ("wrong", "right", "mixed")
    )
    for other in others:
        assert differences(other, wrong) == {}


# --- draft logits -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oracle(tiny, tmp_path_factory) -> DraftOracle:
    return DraftOracle(tiny, tmp_path_factory.mktemp("oracle"))


BOUNDARIES = (127, 128, 129, 255, 256, 257)


def drafted_rows(session: ModelSession, prompt, steps: int, **watch: Any) -> torch.Tensor:
    """Draft logits of every position that the draft layer read: of the prompt's chunks, then of every step."""
    follow, advance, rows = session.follow, session.advance, []

    def followed(row):
        follow(row)
        rows.append((row.start, session.drafts.stage.outputs["draft_logits"][: len(row.tokens)].clone()))

    def advanced(calls, wanted):
        found = advance(calls, wanted)
        rows.append((calls[0].start, session.decode_stage.outputs["draft_logits"][: len(found[0])].clone()))
        return found

    session.follow, session.advance = followed, advanced  # type: ignore[method-assign]
    try:
        watched = Watch(session, lengths=[len(prompt)], **watch)
        generate(session, [prompt], steps)
        assert watched.order
    finally:
        for name in ("follow", "advance", "admit", "step"):
            session.__dict__.pop(name)
    seen = {start + at: row for start, part in rows for at, row in enumerate(part)}
    assert sorted(seen) == list(range(len(prompt) + steps - 1))
    return torch.stack([seen[position] for position in sorted(seen)])


def check_draft_logits(folder: Path, oracle: DraftOracle, lengths, steps: int, ways=("right", "mixed")) -> None:
    """Every row of draft logits, and that each draft is the likeliest token."""
    session = opened(folder, "decode-mtp")
    for length in lengths:
        [prompt] = prompts([length], session.vocabulary.size, seed=length)
        [expected] = served(opened(folder, "decode"), [prompt], steps)[0]
        golden = oracle.logits([*prompt, *expected.tokens])[: length + steps - 1]
        for way in ways:
            made = drafted_rows(session, prompt, steps, force=FORCED[way], right=[expected.tokens])
            assert float(errors(made, golden).max()) < LIMIT, (length, way)
            assert torch.equal(made.argmax(1), golden.argmax(1))


def test_draft_logits_are_those_of_transformers_blocks(tiny, oracle):
    check_draft_logits(tiny, oracle, (129,), 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_draft_logits_of_every_configuration(name, tmp_path):
    if "padded" in name or "chunked=true" in CONFIGS[name]:
        sets = [item for item in CONFIGS[name] if not item.startswith(("recv_", "chunked"))]
    else:
        sets = CONFIGS[name]
    folder = with_draft(tmp_path / "made", "index_n_heads=16", *sets, seed=5)
    check_draft_logits(folder, DraftOracle(folder, tmp_path), (1, 126, 300), 40)


@pytest.mark.parametrize("length", BOUNDARIES)
def test_the_first_draft_of_a_prompt_across_chunks(double, oracle, length):
    [prompt] = prompts([length], 256, seed=length)
    handle = double.admit(length + 2, length)
    chosen = 0
    for start in range(0, length, 128):
        chunk = prompt[start : start + 128]
        chosen = int(double.prefill(Row(handle, chunk, start))[-1].argmax())
        double.follow(Row(handle, (*prompt, chosen)[start + 1 : start + len(chunk) + 1], start))
    golden = oracle.logits([*prompt, chosen])[-1]
    made = double.drafts.stage.outputs["draft_logits"][(length - 1) % 128]
    assert float(errors(made[None], golden[None]).max()) < LIMIT
    place = double.state.requests[handle].pages["draft"][0]
    assert double.state.tensors["drafts.tokens"][place] == golden.argmax()
    assert double.state.tensors["drafts.meta"][place].tolist() == [
        double.state.requests.pools["draft"].generations[place],
        length + 1,
    ]
    double.release(handle)


# --- nothing is left --------------------------------------------------------------------------------------------------


def held(session) -> list[str]:
    """The states that drafts are taken back from, in the order of `Before.places`."""
    return [name for names in session.state._held.values() for name in names]


def without(number: int):
    """`Before.take_back` that forgets one state."""
    take_back = Before.take_back

    def forgetful(self, kept):
        self.places = [place for at, place in enumerate(self.places) if at != number]
        self._saved = [value for at, value in enumerate(self._saved) if at != number]
        take_back(self, kept)

    return forgetful


def test_one_row_that_a_rejected_draft_left_in_any_cache_is_found(double, monkeypatch):
    """The draft at position 127 closes windows of 4 and of 128, and so writes into every cache."""
    [prompt] = prompts([126], 256)
    for name in held(double):
        double.state.tensors[name].zero_()
    handle = double.admit(140, 126)
    chosen = int(double.prefill(Row(handle, prompt, 0))[-1].argmax())
    double.follow(Row(handle, (*prompt[1:], chosen), 0))
    tensors, request = double.state.tensors, double.state.requests[handle]
    place = request.pages["draft"][0]
    before = {name: value.clone() for name, value in tensors.items()}
    names = [name for name in held(double) if not name.startswith("layers.3.")]  # of the model, not of the draft layer

    def after(wanted: int) -> dict[str, torch.Tensor]:
        for name, value in before.items():
            tensors[name].copy_(value)
        request.length = request.reached = 126
        tensors["drafts.tokens"][place] = 0 if chosen else 1
        [logits] = double.advance([Row(handle, (chosen,), 126)], [wanted])
        assert len(logits) == 1 and request.length == request.reached == 127
        return {name: tensors[name].clone() for name in names}

    alone = after(1)
    wrong = 0 if int(double.decode_stage.logits[0].argmax()) else 1
    before["drafts.tokens"][place] = wrong
    assert all(torch.equal(value, alone[name]) for name, value in after(2).items())
    assert len(names) == 10
    for number, name in enumerate(held(double)):
        if name in names:
            with monkeypatch.context() as patch:
                patch.setattr(Before, "take_back", without(number))
                left = [other for other, value in after(2).items() if not torch.equal(value, alone[other])]
            assert left == [name]
    double.release(handle)


def fed_ids(session, row: Row) -> list[int]:
    """The ids that a step of one request runs on, the draft's among them; the request stays where it was."""
    [wanted] = [tensor.id for tensor in session.decode_stage.program.tensors if tensor.name == "ids" and tensor.is_local]
    call, seen = session.decode_stage.call, {}

    def watched(batch, **options):
        result = call(batch, **{**options, "capture": {wanted}})
        seen.update(result.captured)
        return result

    session.decode_stage.call = watched
    try:
        session.advance([row], [5])
    finally:
        del session.decode_stage.__dict__["call"]
    return seen[wanted][:2].tolist()


def test_a_place_that_is_taken_again_has_no_draft_of_the_request_before(double):
    tokens, meta = double.state.tensors["drafts.tokens"], double.state.tensors["drafts.meta"]
    [prompt] = prompts([5], 256)

    def read(follow: bool) -> tuple[int, int]:
        handle = double.admit(13, 5)
        chosen = int(double.prefill(Row(handle, prompt, 0))[-1].argmax())
        double.follow(Row(handle, (*prompt[1:], chosen), 0) if follow else None)
        return handle, double.state.requests[handle].pages["draft"][0]

    first, place = read(follow=True)
    tokens[place], generation = 99, int(meta[place, 0])
    assert fed_ids(double, Row(first, (7,), 5)) == [7, 99]
    double.release(first)
    second, again = read(follow=True)
    tokens[place] = 98
    double.release(second)
    assert again == place and meta[place].tolist() == [generation + 1, 6]
    third, again = read(follow=False)  # at the same place and positions, before it proposed anything itself
    assert again == place and (int(tokens[place]), meta[place].tolist()) == (98, [generation + 1, 6])
    assert fed_ids(double, Row(third, (7,), 5)) == [7, 0]
    assert int(meta[place, 0]) == generation + 2  # from here on what waits is its own
    double.release(third)


def test_a_request_that_went_on_otherwise_takes_no_draft_of_another_position(double):
    [prompt] = prompts([5], 256)
    handle = double.admit(13, 5)
    chosen = int(double.prefill(Row(handle, prompt, 0))[-1].argmax())
    double.follow(Row(handle, (*prompt[1:], chosen), 0))
    double.step([Row(handle, (3, 4), 5)])
    assert fed_ids(double, Row(handle, (9,), 7)) == [9, 0]
    double.release(handle)


# --- how requests go --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("force", ["right", "mixed"])
def test_requests_end_at_either_row(single, double, force):
    """By the number of tokens, or by any one of them, those of accepted drafts included."""
    given = prompts((4, 9, 2), 256)
    right = [g.tokens for g in served(single, given, 7)[0]]
    ends = [(steps, ()) for steps in (0, 1, 2, 3)] + [(7, (right[n][at],)) for n, at in ((0, 1), (0, 2), (1, 3), (2, 4))]
    for steps, ended in ends:
        made, _, _ = served(double, given, steps, eos=ended, force=FORCED[force], right=right)
        assert [g.tokens for g in made] == [list(itertools.islice(until(tokens, ended), steps)) for tokens in right]
        assert not double.state.requests.admitted


def until(tokens, ended):
    for token in tokens:
        yield token
        if token in ended:
            return


def test_more_prompts_than_slots(tiny, single):
    given = prompts((3, 1, 131, 7, 2, 30, 4), 256, seed=2)
    right = [g.tokens for g in served(single, given, 6)[0]]
    made, figures, _ = served(opened(tiny, "decode-mtp", "decode-mtp.batch=3"), given, 6, force=FORCED["mixed"], right=right)
    assert [g.tokens for g in made] == right and 0 < figures.drafts_accepted < figures.drafts_fed
    assert figures.acceptance_rate == figures.drafts_accepted / figures.drafts_fed


def test_more_rows_than_drafts(tiny, single):
    given = prompts((3, 1, 60), 256, seed=2)
    right = [g.tokens for g in served(single, given, 5)[0]]
    wide = opened(tiny, "decode-mtp", "decode-mtp.batch=3", "decode-mtp.seq=4")
    assert [g.tokens for g in served(wide, given, 5, force=FORCED["right"], right=right)[0]] == right


def test_a_step_of_given_tokens_takes_no_draft(single, double):
    [prompt] = prompts([3], 256)
    right = served(single, [prompt], 4)[0][0].tokens
    handle = double.admit(8, 3)
    double.prefill(Row(handle, prompt, 0))
    double.follow(Row(handle, (*prompt[1:], right[0]), 0))
    [rows] = double.step([Row(handle, tuple(right[:2]), 3)])
    assert rows.argmax(1).tolist() == right[1:3]
    double.release(handle)


def test_rings_of_safe_sizes_and_workers_change_no_bit(tiny, double):
    given = prompts((3, 129), 256)
    plain = served(double, given, 5)[0]
    config = load_config([tiny / "config.json"])
    other = generate(in_order(config, tiny, decode="decode-mtp", workers=3, rings=True), given, 5, keep_logits=True)[0]
    for one, two in zip(plain, other, strict=True):
        assert one.tokens == two.tokens and torch.equal(torch.stack(one.decode_logits), torch.stack(two.decode_logits))


@pytest.mark.parametrize(
    ("flavour", "dtype"),
    [
        ("w8a8", None),
        pytest.param("fp8", "f32", marks=pytest.mark.slow),
        pytest.param("fp4", "bf16", marks=pytest.mark.slow),
        pytest.param("bf16", None, marks=pytest.mark.slow),
    ],
)
def test_other_flavours(tiny, tmp_path, flavour, dtype):
    folder = convert(tiny, tmp_path / flavour, load_config([tiny / "config.json"]), to=flavour, dtype=dtype).folder
    check_against_single_steps(folder, (1, 129, 6), 6, ("proposed", "mixed"))


# --- where nothing is drafted -----------------------------------------------------------------------------------------


def changed(folder: Path, out: Path, keep=lambda name: True) -> Path:
    out.mkdir()
    (out / "config.json").write_text((folder / "config.json").read_text())
    tensors = {name: value for shard in sorted(folder.glob("*.safetensors")) for name, value in load_file(shard).items()}
    save_file({name: value for name, value in tensors.items() if keep(name)}, out / "model.safetensors")
    return out


def why_not(folder: Path, *sets: str, **graphs: str) -> str:
    annotated = get_scheduler("annotated")
    config = load_config([folder / "config.json"], sets)
    session = open_session(config, folder, registry(), Placement(lambda p: annotated(p, {})), decode="decode-mtp", graphs=graphs)
    assert session.drafts is None and session.decode_stage.program.name == "decode_fwd"
    [made], figures = generate(session, [(1, 2, 3)], 3)
    assert len(made.tokens) == 3 and figures.acceptance_rate is None
    return session.serving.undrafted


def test_what_cannot_be_drafted_runs_without_and_says_why(tiny, tmp_path):
    without = changed(tiny, tmp_path / "without", lambda name: not name.startswith("mtp."))
    assert why_not(without) == "the checkpoint is without the draft (MTP) layer"
    assert why_not(tiny, "num_nextn_predict_layers=0") == "the model has no draft layer ('num_nextn_predict_layers' is 0)"
    fewer = why_not(tiny, "num_hidden_layers=2", "compress_ratios=[0,4,0]")
    assert fewer == "the draft (MTP) layer is left out with the layers before it"
    assert why_not(tiny, decode="decode_fwd") == "other graphs serve than the model's own"
    assert "is compressed ('compress_ratios[3]' is 4)" in why_not(tiny, "compress_ratios=[0,4,128,4]")


@pytest.mark.parametrize("layers", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_several_draft_layers_are_refused_by_name(tmp_path, layers):
    folder = with_draft(tmp_path / "several", *SMALL, f"num_nextn_predict_layers={layers}")
    why = why_not(folder)
    assert f"{layers} draft layers" in why and f"('num_nextn_predict_layers' is {layers})" in why
