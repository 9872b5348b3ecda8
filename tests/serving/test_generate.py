"""The generation loop on a toy session whose logits say which token follows; prompts as users give them."""

import json
import re

import pytest
import torch

from runner.base.errors import ExecutionError, RinggraphError
from runner.execution.comm import LocalComm
from runner.serving.generate import Row, generate
from runner.serving.prompts import check_prompts, parse_ids, read_prompts

VOCAB = 50
CHUNK = 4


class Toy:
    """The next token is (sum of all tokens so far) mod VOCAB; checks that calls are ones that a model could serve."""

    prefill_tokens = CHUNK

    def __init__(self, batch: int):
        self.batch = batch
        self.num_tasks = 0
        self.seen: dict[int, list[int]] = {}
        self.calls: list[tuple[str, int]] = []
        self.most_admitted = 0

    def admit(self, num_tokens: int, prompt_len: int) -> int:
        handle = next(h for h in range(100) if h not in self.seen)
        self.seen[handle] = []
        self.most_admitted = max(self.most_admitted, len(self.seen))
        return handle

    def release(self, handle: int) -> None:
        del self.seen[handle]

    def prefill(self, row: Row | None) -> torch.Tensor:
        self.calls.append(("prefill", 0 if row is None else len(row.tokens)))
        return torch.empty(0) if row is None else self._feed(row, CHUNK)

    def step(self, rows) -> list[torch.Tensor]:
        assert len(rows) <= self.batch
        self.calls.append(("decode", len(rows)))
        return [self._feed(row, 1) for row in rows]

    def _feed(self, row: Row, most: int) -> torch.Tensor:
        assert 1 <= len(row.tokens) <= most and row.start == len(self.seen[row.handle])
        logits = torch.zeros(len(row.tokens), VOCAB)
        for i, token in enumerate(row.tokens):
            self.seen[row.handle].append(token)
            logits[i, sum(self.seen[row.handle]) % VOCAB] = 1
        self.num_tasks += 1
        return logits


def expected(prompt, steps):
    tokens = list(prompt)
    for _ in range(steps):
        tokens.append(sum(tokens) % VOCAB)
    return tokens[len(prompt) :]


PROMPTS = [tuple(range(1, n + 1)) for n in (1, 3, 4, 5, 8, 9, 13, 2)]


@pytest.mark.parametrize("batch", [1, 3, 8, 20])
def test_every_prompt_gets_its_own_tokens_whatever_the_batch(batch):
    toy = Toy(batch)
    made, figures = generate(toy, PROMPTS, 6)
    assert [g.tokens for g in made] == [expected(p, 6) for p in PROMPTS]
    assert toy.seen == {} and toy.most_admitted <= batch
    assert figures.prompt_tokens == sum(map(len, PROMPTS)) and figures.new_tokens == 6 * len(PROMPTS)
    assert figures.num_tasks == toy.num_tasks
    assert figures.prefill_calls + figures.decode_calls == len(toy.calls)


def test_slots_are_refilled_as_soon_as_a_request_ends():
    toy = Toy(2)
    stop = expected(PROMPTS[0], 2)[1]
    generate(toy, PROMPTS[:3], 8, eos=[stop])
    first_decodes = [rows for call, rows in toy.calls if call == "decode"]
    assert first_decodes[0] == 2 and toy.calls[2:5] == [("decode", 2), ("prefill", 4), ("decode", 2)]


def test_generation_ends_at_an_end_token_which_is_kept():
    tokens = expected(PROMPTS[3], 6)
    made, _ = generate(Toy(2), [PROMPTS[3]], 6, eos=[tokens[2], 999])
    assert made[0].tokens == tokens[:3]


def test_no_new_tokens_still_reads_the_prompts():
    made, figures = generate(Toy(2), PROMPTS, 0, keep_logits=True)
    assert all(g.tokens == [] for g in made)
    assert [sum(map(len, g.prefill_logits)) for g in made] == [len(p) for p in PROMPTS]
    assert figures.decode_calls == 0


def test_logits_of_every_prompt_position_and_decode_step():
    made, _ = generate(Toy(3), PROMPTS, 4, keep_logits=True)
    for g in made:
        sequence = [*g.prompt, *g.tokens]
        rows = [row for chunk in g.prefill_logits for row in chunk] + g.decode_logits
        assert len(g.decode_logits) == 3
        assert [int(row.argmax()) for row in rows] == [sum(sequence[: i + 1]) % VOCAB for i in range(len(rows))]


class Pretended:
    """A group of two, of which the other rank wants `other` next, call by call, then stops."""

    size = 2
    rank = 0

    def __init__(self, other):
        self.other = list(other)

    def all_gather(self, x):
        return torch.stack([x, torch.tensor([self.other.pop(0) if self.other else 0])])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("call, position", [(1, 6), (3, 9)])
def test_logits_that_are_not_finite_are_no_choice(value, call, position):
    """In the second chunk of prompt 1, the first of rank 1, and in the second decode call behind it."""

    class Broken(Toy):
        def _feed(self, row, most):
            logits = super()._feed(row, most)
            if self.num_tasks > call:
                logits[min(2, len(logits) - 1), 7] = value
            return logits

    class Second(LocalComm):
        rank, size = 1, 2

        def all_gather(self, x):
            return x.expand(2, *x.shape)

    with pytest.raises(ExecutionError, match=rf"^prompt 1: the logits at position {position} are not finite\nhint: "):
        generate(Broken(2), [PROMPTS[4]], 5, comm=Second())


def test_a_rank_without_work_takes_part_until_all_are_done():
    toy = Toy(2)
    made, _ = generate(toy, [(1, 2)], 2, comm=Pretended([2, 2, 1, 1, 1]))
    assert toy.calls == [("prefill", 2), ("prefill", 0), ("decode", 1), ("decode", 0), ("decode", 0)]
    assert made[0].tokens == expected((1, 2), 2)


def test_prompt_ids():
    assert parse_ids("1,2, 3") == (1, 2, 3)
    with pytest.raises(RinggraphError, match=re.escape("--prompt-ids 1,x: expected token ids with commas between, as in 1,2,3")):
        parse_ids("1,x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "an object, expected a list of prompts"),
        ("[[1], 2]", "prompt 1 is a number, expected a list of token ids (or all prompts as strings)"),
        ('[[1], "a"]', "prompt 1 is a string, expected a list of token ids (or all prompts as strings)"),
        ("[[1.5]]", "prompt 0 is a list with other items than token ids"),
        ("[[true]]", "prompt 0 is a list with other items than token ids"),
        ("[[1,]]", ": not JSON: "),
        ('["a"]', "has no tokenizer.json"),
    ],
)
def test_prompt_files_that_cannot_be_used(tmp_path, text, message):
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(RinggraphError) as caught:
        read_prompts(path, tmp_path)
    assert message in str(caught.value)


def test_prompt_file_of_ids(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps([[1, 2], [3]]))
    assert read_prompts(path, tmp_path) == [(1, 2), (3,)]


def test_prompt_texts_with_the_checkpoints_tokenizer(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"a": 4, "b": 7, "[UNK]": 0}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    path = tmp_path / "p.json"
    path.write_text(json.dumps(["a b a", "b"]))
    assert read_prompts(path, tmp_path) == [(4, 7, 4), (7,)]


def test_wrong_prompts_are_named_all_at_once():
    with pytest.raises(RinggraphError) as caught:
        check_prompts([(), (1, 9, -1), (3,)], 5)
    assert str(caught.value) == ("prompt 0 is empty\nprompt 1: token 9 at 1 is outside of the vocabulary of 5 (and 1 more)")
    with pytest.raises(RinggraphError, match="there is no prompt"):
        check_prompts([], 5)
