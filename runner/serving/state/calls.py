"""What a call is told of its requests: ids, positions, block tables, slots, lengths, key indices.

A call takes B requests and S tokens of each, T = B * S in all. Row i of a call has the tokens from `i * S` on; what is left of
them is idle, with position -1 and slot -1, in a request's inputs with 0 and slot -1.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from runner.base.errors import Diagnostic, StateError
from runner.base.tensor_spec import TensorSpec
from runner.execution.storage import TORCH_DTYPES
from runner.models.declared.pools import Kind, Pool, Request
from runner.models.declared.state import Role
from runner.models.protocols import Row

PER_TOKEN = ("tokens", "positions")
PER_REQUEST = ("lengths", "starts", "counts", "prompt_length", "generations")


@dataclass(frozen=True, slots=True)
class Geometry:
    """Tokens of a call, and requests of it, None where no input has a dim of requests."""

    num_tokens: int
    num_requests: int | None

    def for_rows(self, rows: Sequence[Row]) -> int:
        """Requests that a call on `rows` takes. Where nothing says it: one, or as many as there are tokens; raises StateError."""
        if self.num_requests is not None:
            return self.num_requests
        if len(rows) <= 1:
            return 1
        if any(len(tokens) != 1 for _, tokens, _ in rows):
            raise StateError(
                f"{len(rows)} rows of several tokens in a call that does not say how many requests it takes",
                hint="give the graph an input of requests, such as their lengths",
            )
        return self.num_tokens


def geometry(roles: Mapping[str, Role], inputs: Mapping[str, TensorSpec], kinds: Mapping[str, Kind]) -> Geometry | None:
    """What the shapes of `inputs` say; None for a graph that takes no requests. Raises StateError for misfits, all told."""
    told = {name: roles[name] for name in inputs if name in roles}
    firsts = [spec.shape[0] for name, spec in inputs.items() if name in told and told[name].role in PER_TOKEN and spec.shape]
    slots = [(name, inputs[name].shape[0]) for name in told if told[name].role == "slots" and inputs[name].shape]
    growing = [first for name, first in slots if kinds[told[name].of[0]].kind != "running"]
    num_tokens = next(iter([*firsts, *growing, *(first for _, first in slots)]), None)
    if num_tokens is None:
        return None
    requests = []
    for name, role in told.items():
        shape = inputs[name].shape
        if role.role == "table":
            requests.append(shape[0] if len(shape) == 2 else 1)
        elif role.role in PER_REQUEST and shape:
            requests.append(shape[0])
    found = Geometry(num_tokens, next(iter(requests), None))
    problems = [problem for name, role in told.items() if (problem := _misfit(name, role, inputs[name], found, kinds))]
    if not problems and found.num_requests and num_tokens % found.num_requests:
        message = f"a call of {num_tokens} tokens cannot be of {found.num_requests} requests"
        raise StateError(message, hint="the inputs of tokens and of requests do not fit together")
    if problems:
        raise StateError(problems)
    return found


def _misfit(name: str, role: Role, spec: TensorSpec, call: Geometry, kinds: Mapping[str, Kind]) -> Diagnostic | None:
    """Why an input cannot tell what its role says."""
    tokens, requests = call.num_tokens, 1 if call.num_requests is None else call.num_requests
    width = kinds[role.of[0]].table if role.role == "table" else 0
    expected = {
        "tokens": [(tokens,)],
        "positions": [(tokens,)],
        "slots": [(tokens,)],
        "table": [(requests, width), *([(width,)] if requests == 1 else [])],
        "keys": [(tokens, -1)],
        "key_counts": [(tokens,), (1, tokens)],
    }.get(role.role, [(requests,)])
    if role.role == "slots" and kinds[role.of[0]].kind == "running" and call.num_requests is not None:
        expected.append((requests,))
    hint = None
    if spec.dtype not in ("i32", "i64"):
        what = f"is {spec}, expected i32 or i64"
    elif role.role == "table" and spec.shape[:-1] in ((), (requests,)) and spec.shape and spec.shape[-1] < width:
        what = f"has room for {spec.shape[-1]} pages, but a request of state '{role.of[0]}' has up to {width}"
        hint = f"make the graph's '{name}' as wide as the table of '{role.of[0]}'"
    elif role.role == "keys" and requests != 1:
        what = f"tells keys of {requests} requests, expected one"
    elif role.role == "keys" and len(spec.shape) == 2 and spec.shape[1] < kinds[role.of[0]].rows:
        what = f"has {spec.shape[1]} columns, expected at least the {kinds[role.of[0]].rows} rows of '{role.of[0]}'"
    elif not any(_same(spec.shape, shape, role.role == "table") for shape in expected):
        shown = " or ".join(f"[{', '.join('N' if size < 0 else str(size) for size in shape)}]" for shape in expected)
        what = f"is {spec}, expected {shown} in a call of {tokens} tokens of {requests} requests"
    else:
        return None
    return role.given.problem("C104", f"input '{name}' ({role.role}) {what}", hint)


def _same(shape: tuple[int, ...], expected: tuple[int, ...], is_table: bool) -> bool:
    """Whether a shape is as expected: -1 stands for any size, and a table may be wider."""
    if len(shape) != len(expected):
        return False
    *front, last = zip(shape, expected, strict=True)
    return all(want in (-1, got) for got, want in front) and (last[1] in (-1, last[0]) or (is_table and last[0] >= last[1]))


@dataclass
class Call:
    """The tokens of one call, token by token: id, position (-1 if idle), and the last position of its request in the call."""

    num_tokens: int
    num_requests: int
    pools: Mapping[str, Pool]
    requests: dict[int, Request] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seq = self.num_tokens // self.num_requests
        self._rows = [[0] * self.num_tokens, [-1] * self.num_tokens, [-1] * self.num_tokens]

    def add(self, index: int, request: Request, tokens: Sequence[int], start: int) -> None:
        """Row `index` of the call; all rows before anything is asked."""
        first, count = index * self.seq, len(tokens)
        made = list(tokens), range(start, start + count), [start + count - 1] * count
        for row, values in zip(self._rows, made, strict=True):
            row[first : first + count] = values
        self.requests[index], self.starts[index], self.counts[index] = request, start, count

    @functools.cached_property
    def _told(self) -> torch.Tensor:
        return torch.tensor(self._rows, dtype=torch.int64)

    @property
    def tokens(self) -> torch.Tensor:
        return self._told[0]

    @property
    def positions(self) -> torch.Tensor:
        return self._told[1]

    @property
    def last(self) -> torch.Tensor:
        return self._told[2]

    def told(self, role: Role, spec: TensorSpec) -> torch.Tensor:
        """What an input of a role is told, in its dtype and shape."""
        return self._values(role, spec).to(TORCH_DTYPES[spec.dtype]).reshape(spec.shape)

    def _values(self, role: Role, spec: TensorSpec) -> torch.Tensor:
        kinds = [self.pools[name].kind for name in role.of]
        match role.role:
            case "tokens":
                return self.tokens
            case "positions":
                return self.positions
            case "table":
                return self._table(kinds[0], spec.shape[-1])
            case "slots":
                return self.slots(kinds[0], spec.shape[0])
            case "keys":
                return self._keys(spec.shape[1], *kinds)
            case "key_counts":
                return torch.where(self.positions >= 0, kinds[0].rows + self._rows_seen(*kinds[1:]), 0)
        return self._per_request(role)

    def _per_request(self, role: Role) -> torch.Tensor:
        """i64[B]: a number of every request, of idle ones 0, and generation -1."""
        found = torch.full((self.num_requests,), -1 if role.role == "generations" else 0, dtype=torch.int64)
        for index, request in self.requests.items():
            if role.role == "lengths":
                found[index] = self.starts[index] + self.counts[index]
            elif role.role == "starts":
                found[index] = self.starts[index]
            elif role.role == "counts":
                found[index] = self.counts[index]
            elif role.role == "prompt_length":
                found[index] = max(request.prompt_len, request.length)
            else:
                pool = self.pools[role.of[0]]
                found[index] = pool.generations[request.pages[pool.kind.name][0]]
        return found

    def _table(self, kind: Kind, width: int) -> torch.Tensor:
        """Pages of every request; idle ones and what is left have page 0, which they neither read nor write."""
        table = [[0] * width for _ in range(self.num_requests)]
        for index, request in self.requests.items():
            pages = request.pages[kind.name]
            table[index][: len(pages)] = pages
        return torch.tensor(table, dtype=torch.int64).view(-1, width)

    def slots(self, kind: Kind, length: int | None = None) -> torch.Tensor:
        """Where each token's row lies among all rows of the kind, -1 where it leaves none; of a running state, of B requests too.

        In a ring the newest tokens of each request leave rows that it can hold, else a token that closes a row of its own.
        """
        if kind.kind == "running":
            return self._running(kind, self.num_tokens if length is None else length)
        if kind.kind == "ring":
            row, keep = self.positions % kind.rows, (self.positions >= 0) & (self.positions > self.last - kind.rows)
        else:
            count = self.positions + 1
            row, keep = count // kind.every - 1, (count > 0) & (count % kind.every == 0)
        row = row.clamp_(0, kind.rows - 1)
        table = self._table(kind, kind.table)
        pages = table.gather(1, (row // kind.page).view(self.num_requests, self.seq)).view(-1)
        return torch.where(keep, pages * kind.page + row % kind.page, -1)

    def _running(self, kind: Kind, length: int) -> torch.Tensor:
        slots = torch.full((self.num_requests,), -1, dtype=torch.int64)
        for index, request in self.requests.items():
            slots[index] = request.pages[kind.name][0]
        if length == self.num_requests:
            return slots
        return torch.where(self.positions >= 0, slots.repeat_interleave(self.seq), -1)

    def _rows_seen(self, *kinds: Kind) -> torch.Tensor:
        """i64[T]: rows that each token sees of the kind behind a ring; none without such a kind."""
        return (self.positions + 1) // kinds[0].every if kinds else torch.zeros_like(self.positions)

    def _keys(self, columns: int, ring: Kind, *behind: Kind) -> torch.Tensor:
        """Key indices of every token of one request: its window, then the rows of the kind behind the ring; -1 for no key.

        Keys count from this call's own T rows; then come the rows of the ring as it was before, then the other kind's rows.
        """
        keys = torch.full((self.num_tokens, columns), -1)
        window = self.positions[:, None] - torch.arange(ring.rows - 1, -1, -1)
        first = self.positions[:1, None]
        index = torch.where(window >= first, window - first, window % ring.rows + self.num_tokens)
        seen = (window >= 0) & (window > self.positions[:, None] - ring.keeps)
        keys[:, : ring.rows] = torch.where(seen, index, -1)
        row = torch.arange(columns - ring.rows)
        visible = row < self._rows_seen(*behind)[:, None]
        keys[:, ring.rows :] = torch.where(visible, row + self.num_tokens + ring.rows, -1)
        return keys
