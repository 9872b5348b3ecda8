"""One call by itself, as `run` makes it: of random tokens or of given ones, of new requests or of those that a run left.

What a run knew of its requests goes from file to file as tensors whose names begin with `requests.`: the handle, length and
pages of each, and how often every place was taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from runner.base.errors import ConfigError, StateError
from runner.base.tensor_spec import TensorSpec
from runner.models.declared.pools import Request
from runner.models.declared.state import Evaluator, StateDeclaration
from runner.models.protocols import Row, Settings
from runner.serving.state.store import DeclaredState

PREFIX = "requests."
"""What the names of tensors with requests begin with."""

_NUMBERS = ("handle", "length", "reached", "capacity", "prompt_len")


@dataclass(frozen=True, slots=True)
class Turn:
    """Tokens of one request in one call: of a new one without `request`, from where it stands without `start`.

    `prompt_len` is how many tokens a new request's prompt has, those of this call without.
    """

    tokens: tuple[int, ...]
    request: int | None = None
    start: int | None = None
    prompt_len: int | None = None


def first_call(
    declaration: StateDeclaration, inputs: Mapping[str, TensorSpec], settings: Settings, seed: int
) -> dict[str, torch.Tensor]:
    """See `ModelFamily.first_call`."""
    return next_call(declaration, inputs, settings, seed)[0]


def next_call(
    declaration: StateDeclaration,
    inputs: Mapping[str, TensorSpec],
    settings: Settings,
    seed: int,
    turns: Sequence[Turn] = (),
    left: Mapping[str, torch.Tensor] | None = None,
) -> tuple[dict[str, torch.Tensor], DeclaredState]:
    """The `inputs` of a call that are known here, and who knows them: of `turns`, else on random tokens.

    `left` is what an earlier run knew of its requests (`requests_left`); without turns they go on, or as many requests begin as a
    call takes. A graph that takes no more of requests than ids has constants alone. Raises StateError or ConfigError.
    """
    store = DeclaredState(declaration, settings, {})
    restore(store, left or {})
    roles = declaration.inputs
    if all(roles[name].role == "tokens" for name in inputs if name in roles):
        if turns:
            raise StateError("the graph takes no requests, of which tokens could be given")
        return store.batch_inputs([], {name: spec for name, spec in inputs.items() if name not in roles}), store
    rows = _given_rows(store, turns, _num_ids(declaration, settings)) if turns else _random_rows(store, inputs, settings, seed)
    return store.batch_inputs(rows, inputs), store


def _num_ids(declaration: StateDeclaration, settings: Settings) -> int | None:
    """How many token ids there are, None where that is not declared."""
    told = next((role.vocabulary for role in declaration.inputs.values() if role.vocabulary is not None), None)
    if told is None:
        return None
    evaluator = Evaluator(settings.values, settings.dtypes)
    found = evaluator.count("the number of token ids", told)
    if found is None:
        raise ConfigError(evaluator.problems)
    return found


def _given_rows(store: DeclaredState, turns: Sequence[Turn], num_ids: int | None) -> list[Row]:
    rows: list[Row] = []
    for turn in turns:
        wrong = [token for token in turn.tokens if token < 0 or (num_ids is not None and token >= num_ids)]
        if wrong:
            raise StateError(f"token {wrong[0]} is outside of the vocabulary of {num_ids}")
        handle = turn.request
        if handle is None:
            handle = store.admit(None, len(turn.tokens) if turn.prompt_len is None else turn.prompt_len)
        rows.append((handle, turn.tokens, store.length(handle) if turn.start is None else turn.start))
    return rows


def _random_rows(store: DeclaredState, inputs: Mapping[str, TensorSpec], settings: Settings, seed: int) -> list[Row]:
    """Random tokens of the requests that there are, else of as many new ones as a call takes; ids are 0 where none are known."""
    declaration, shape = store.declaration, store.geometry(inputs)
    if shape is None:  # page tables alone: of how many tokens, nothing says
        return []
    num_requests = shape.num_requests or declaration.sizes(settings).requests or 1
    seq, num_ids = shape.num_tokens // num_requests, _num_ids(declaration, settings) or 1
    generator = torch.Generator().manual_seed(seed)
    handles = sorted(store.requests.admitted)[:num_requests]
    room = _room(store, num_requests, seq)
    rows: list[Row] = []
    for handle in handles or [None] * num_requests:
        tokens = torch.randint(0, num_ids, (seq,), generator=generator).tolist()
        handle = store.admit(room, seq) if handle is None else handle
        rows.append((handle, tokens, store.length(handle)))
    return rows


def _room(store: DeclaredState, count: int, num_tokens: int) -> int | None:
    """Positions to admit each of `count` requests for: as far as requests can go if pages allow, else `num_tokens`."""
    longest = store.requests.longest
    if longest is None:
        return None
    pools = store.requests.pools.values()
    fits = longest >= num_tokens and all(count * pool.kind.pages_for(longest) <= len(pool.free) for pool in pools)
    return longest if fits else num_tokens


def requests_left(store: DeclaredState) -> dict[str, torch.Tensor]:
    """What is known of every request, as tensors by name; `restore` takes them.

    Of n requests i64[n] numbers, of each kind the pages i64[n, table] (-1: none) and generations i64[pages], and i64[1] `next`.
    """
    admitted = store.requests.admitted
    found = {
        key: torch.tensor([handle if key == "handle" else getattr(request, key) for handle, request in admitted.items()])
        for key in _NUMBERS
    }
    found["next"] = torch.tensor([store.requests.next])
    for name, pool in store.requests.pools.items():
        pages = torch.full((len(admitted), pool.kind.table), -1)
        for row, request in zip(pages, admitted.values(), strict=True):
            row[: len(request.pages[name])] = torch.tensor(request.pages[name])
        found[f"pages.{name}"] = pages
        found[f"generations.{name}"] = torch.tensor(pool.generations)
    return {PREFIX + key: value.to(torch.int64) for key, value in found.items()}


def restore(store: DeclaredState, left: Mapping[str, torch.Tensor]) -> None:
    """Admits the requests of `requests_left` to a store without any; raises StateError for what cannot be of its declaration."""
    if not left:
        return
    pools, hint = store.requests.pools, "take them from a run under the same configuration"
    parts = {name.removeprefix(PREFIX): value for name, value in left.items()}
    wanted = {*_NUMBERS, "next", *(f"{key}.{name}" for name in pools for key in ("pages", "generations"))}
    if parts.keys() != wanted:
        odd = sorted(parts.keys() ^ wanted)[0]
        raise StateError(f"'{PREFIX}{odd}' is {'missing' if odd in wanted else 'of no kind of state that there is'}", hint=hint)
    num_requests = parts["handle"].numel()
    for key, value in parts.items():
        kind, name = key.partition(".")[::2]
        shape = (num_requests,) if not name and key != "next" else (1,)
        if name:
            shape = (num_requests, pools[name].kind.table) if kind == "pages" else (pools[name].kind.pages,)
        if value.dtype != torch.int64 or value.shape != shape:
            got = f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
            raise StateError(f"'{PREFIX}{key}' is {got}, expected int64{list(shape)}", hint=hint)
    numbers = [parts[key].tolist() for key in _NUMBERS]
    store.requests.next = int(parts["next"])
    for at, (handle, length, reached, capacity, prompt_len) in enumerate(zip(*numbers, strict=True)):
        if not 0 <= length <= reached <= capacity or not 0 <= handle < store.requests.next or handle in store.requests.admitted:
            raise StateError(f"request {handle} of '{PREFIX}handle' cannot be: {length} of {capacity} positions", hint=hint)
        pages = {name: tuple(page for page in parts[f"pages.{name}"][at].tolist() if page >= 0) for name in pools}
        store.requests.admitted[handle] = Request(capacity, prompt_len, pages, length, reached)
    for name, pool in pools.items():
        taken = [page for request in store.requests.admitted.values() for page in request.pages[name]]
        if len(set(taken)) < len(taken) or any(page >= pool.kind.pages for page in taken):
            raise StateError(f"'{PREFIX}pages.{name}' gives a page twice, or one that there is not", hint=hint)
        pool.free = [page for page in pool.free if page not in set(taken)]
        pool.generations = parts[f"generations.{name}"].tolist()
