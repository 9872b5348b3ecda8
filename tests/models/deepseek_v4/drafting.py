"""What tests of drafts share: models with a draft layer, drafts put in from outside, the state of a request at every length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from runner.checkpoint.random import init_checkpoint
from runner.config.config import load_config
from runner.driver.driver import registry
from runner.execution.comm import Comm
from runner.serving.generate import Figures, Generation, generate
from runner.serving.session import ModelSession, Placement, open_session
from schedulers import get_scheduler

State = dict[str, torch.Tensor]
"""All rows of a request, by the state's name."""

CONFIGS: dict[str, list[str]] = {
    "all-kinds": [],
    "narrow-window-pro": ["sliding_window=40", "num_hidden_layers=3", "compress_ratios=[128,128,4,0]", "num_hash_layers=0"],
    "wide-window-few-streams": ["sliding_window=200", "hc_mult=2", "num_hidden_layers=3", "compress_ratios=[0,128,4,0]"],
    "windows-only": ["sliding_window=16", "num_hidden_layers=2", "compress_ratios=[0,0,0]", "num_hash_layers=1"],
    "sparse-only": ["num_hidden_layers=3", "compress_ratios=[4,4,4,0]", "index_topk=5", "n_routed_experts=8"],
    "padded-buffers": ["recv_layout=padded", "recv_max=64", "num_hidden_layers=3", "compress_ratios=[4,0,128]"],
    "chunked-odd-sizes": [
        "chunked=true", "hidden_size=96", "num_attention_heads=6", "o_groups=3", "head_dim=48", "qk_rope_head_dim=20",
        "vocab_size=334", "num_hidden_layers=3", "compress_ratios=[0,4,128,0]", "num_experts_per_tok=4", "num_hash_layers=3",
    ],
}  # fmt: skip
"""Fields over `tiny` with a draft layer: every kind of attention, windows and rings of several sizes, both receive layouts."""

LENGTHS = (1, 5, 126, 127, 128, 129, 64, 9)


def with_draft(folder: Path, *sets: str, seed: int = 0, **how: Any) -> Path:
    """A random checkpoint of `tiny` with a draft layer, which agrees with the model no more often than by chance."""
    ratios = [] if any(item.startswith("compress_ratios") for item in sets) else ["compress_ratios=[0,4,128,4,128,0,0]"]
    config = load_config(["tiny"], ["num_nextn_predict_layers=1", *ratios, *sets])
    return init_checkpoint(config, folder, seed=seed, **how)


def agreeing(folder: Path, out: Path) -> Path:
    """The same checkpoint where nothing is added to the streams and the draft layer reads the next token alone.

    The model's choice then follows from a token by itself, and the draft layer makes the same.
    """
    out.mkdir()
    (out / "config.json").write_text((folder / "config.json").read_text())
    tensors = {name: value for shard in sorted(folder.glob("*.safetensors")) for name, value in load_file(shard).items()}
    for name, value in tensors.items():
        if name.endswith(("wo_b.weight", "w2.weight")):
            value.zero_()
    for name in ("hc_head_fn", "hc_head_base", "hc_head_scale", "norm.weight"):
        tensors[f"mtp.0.{name}"] = tensors[name].clone()
    tensors["mtp.0.e_proj.weight"] = torch.eye(tensors["mtp.0.e_proj.weight"].shape[0])
    tensors["mtp.0.h_proj.weight"].zero_()
    tensors["mtp.0.enorm.weight"].fill_(1)
    save_file(tensors, out / "model.safetensors")
    return out


# --- watching a session -----------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """What became of a session's requests: the state of each after every call, by number of the prompt and length.

    force  whether the draft of a prompt at a position is put in right or wrong; None leaves what the model proposed
    right  the tokens of every prompt behind it
    """

    session: ModelSession
    force: Callable[[int, int], bool | None] = lambda prompt, position: None
    right: Sequence[Sequence[int]] = ()
    lengths: Sequence[int] = ()
    states: dict[tuple[int, int], State] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        admit, step, advance = self.session.admit, self.session.step, self.session.advance

        def admitted(num_tokens: int, prompt_len: int) -> int:
            handle = admit(num_tokens, prompt_len)
            self.clear(handle)
            self.order.append(handle)
            return handle

        def stepped(rows):
            found = step(rows)
            self.look(rows)
            return found

        def advanced(rows, wanted):
            if self.session.drafts is None:
                return advance(rows, wanted)
            self.put_in(rows)
            found = advance(rows, wanted)
            self.look(rows)
            return found

        self.session.admit, self.session.step, self.session.advance = admitted, stepped, advanced  # type: ignore[method-assign]

    def rows(self, handle: int) -> State:
        """Views of a request's pages of every state that a kind holds."""
        state: Any = self.session.state
        pages = state.requests[handle].pages
        return {name: state.tensors[name][list(pages[kind])] for kind, names in state._held.items() for name in names}

    def clear(self, handle: int) -> None:
        """Zeroes the pages of a new request, so that what another one left in them is not taken for its own."""
        state: Any = self.session.state
        for kind, names in state._held.items():
            for name in names:
                for page in state.requests[handle].pages[kind]:
                    state.tensors[name][page].zero_()

    def put_in(self, rows) -> None:
        """The forced drafts, where the model's would wait."""
        state: Any = self.session.state
        for handle, _, start in rows:
            prompt = self.order.index(handle)
            force = self.force(prompt, start)
            if force is not None:
                at, tokens = start + 1 - self.lengths[prompt], self.right[prompt]
                token = tokens[at] if at < len(tokens) else 0
                place = state.requests[handle].pages["draft"][0]
                state.tensors["drafts.tokens"][place] = token if force else (token + 1) % self.session.vocabulary.size

    def look(self, rows) -> None:
        for handle, _, _ in rows:
            length = self.session.state.length(handle)  # type: ignore[attr-defined]
            self.states[self.order.index(handle), length] = {n: value.clone() for n, value in self.rows(handle).items()}


FORCED: dict[str, Callable[[int, int], bool | None]] = {
    "proposed": lambda prompt, position: None,
    "right": lambda prompt, position: True,
    "wrong": lambda prompt, position: False,
    "mixed": lambda prompt, position: (prompt * 7 + position * 3) % 5 < 2,
}


def session_of(folder: Path, decode: str, *sets: str, comm: Comm | None = None) -> ModelSession:
    annotated = get_scheduler("annotated")
    config = load_config([folder / "config.json"], sets)
    placement = Placement(lambda program: annotated(program, {}))
    return open_session(config, folder, registry(), placement, decode=decode, comm=comm)


@lru_cache(maxsize=8)
def opened(folder: Path, decode: str, *sets: str) -> ModelSession:
    """A session of a checkpoint, open for all tests that ask for it."""
    return session_of(folder, decode, *sets)


def random_prompts(lengths: Sequence[int], num_tokens: int, seed: int = 0) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(0, num_tokens, (length,), generator=generator).tolist()) for length in lengths]


def served(
    session: ModelSession, given, steps: int, comm: Comm | None = None, eos=(), **watch: Any
) -> tuple[list[Generation], Figures, Watch]:
    """Tokens of all prompts, with every logit, figures, and the watch, which is over then."""
    watched = Watch(session, lengths=[len(prompt) for prompt in given], **watch)
    try:
        made, figures = generate(session, given, steps, keep_logits=True, comm=comm, eos=eos)
    finally:
        for name in ("admit", "step", "advance"):
            del session.__dict__[name]
    return made, figures, watched


def differences(one: Mapping[tuple[int, int], State], other: Mapping[tuple[int, int], State]) -> dict[str, list[tuple[int, int]]]:
    """The states that are otherwise in `other` at the same length of the same request, by name; some length is in both."""
    common = sorted(one.keys() & other.keys())
    assert common
    found: dict[str, list[tuple[int, int]]] = {}
    for key in common:
        for name in one[key].keys() & other[key].keys():
            if not torch.equal(one[key][name], other[key][name]):
                found.setdefault(name, []).append(key)
    return found


def check_both(
    one: ModelSession, two: ModelSession, given, steps: int, ways: Sequence[str], comm: Comm | None = None
) -> dict[str, float | None]:
    """Tokens, logits and state of single steps and of steps with drafts are the same; the acceptance rate of each way."""
    expected, _, seen = served(one, given, steps, comm)
    right = [generation.tokens for generation in expected]
    rates = {}
    for way in ways:
        made, figures, drafted = served(two, given, steps, comm, force=FORCED[way], right=right)
        rates[way] = figures.acceptance_rate
        assert [generation.tokens for generation in made] == right, way
        for a, b in zip(expected, made, strict=True):
            assert torch.equal(torch.stack(a.decode_logits), torch.stack(b.decode_logits)), way
        assert differences(drafted.states, seen.states) == {}, way
        assert drafted.states.keys() <= seen.states.keys(), way
    assert rates.get("right", 1.0) == 1.0 and rates.get("wrong", 0.0) == 0.0
    return rates
