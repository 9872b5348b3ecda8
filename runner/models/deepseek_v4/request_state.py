"""What requests leave behind between calls: paged caches and compressor states, and inputs that tell a call where they lie.

Every request owns pages of five pools, each with a block table: its window ring, its compressed rows in CSA and HCA layers, and
the rings of the compressors' newest tokens. All layers of a kind use the same pages of their own tensors. The indexer's rows and
its compressor's ring lie where CSA's own do.

Nothing is cleared when pages change hands: what a request has not written itself, no op reads (`docs/ops.md`, attention).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from runner.base.errors import StateError
from runner.base.tensor_spec import TensorSpec
from runner.execution.storage import TORCH_DTYPES
from runner.models.deepseek_v4.tables import hadamard, rope_tables
from runner.models.protocols import Row, Settings


@dataclass
class PagePool:
    """Pages of one kind, and which are free.

    A request has up to `table_pages` of them: a row for every `ratio` positions, or, where that is 0, a ring of all of them.
    """

    name: str
    dim: str
    num_pages: int
    page_rows: int
    table_pages: int
    ratio: int = 0
    free: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free = list(reversed(range(self.num_pages)))

    @property
    def ring_rows(self) -> int:
        """Rows of a request's ring."""
        return self.table_pages * self.page_rows

    def pages_for(self, num_tokens: int) -> int:
        """Pages of a request of so many positions."""
        if not self.ratio:
            return self.table_pages
        return -(-(num_tokens // self.ratio) // self.page_rows)

    def take(self, count: int) -> list[int]:
        return [self.free.pop() for _ in range(count)]


@dataclass
class _Request:
    """`length` positions were seen of at most `capacity`; `pages` (as a table) and `owned` by pool."""

    capacity: int
    prompt_len: int
    pages: dict[str, torch.Tensor]
    owned: dict[str, list[int]]
    length: int = 0


class StateStore:
    """State of all requests of one rank; see `RequestState`.

    `states` are the specs of the programs' states by source name (`layers.3.kv_cache`); `tensors` are they, zeroed, on `device`.
    """

    def __init__(self, config: Settings, states: Mapping[str, TensorSpec], device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        self.tensors = {
            name: torch.zeros(spec.shape, dtype=TORCH_DTYPES[spec.dtype], device=self.device) for name, spec in states.items()
        }
        self._values, self._dtypes = config.values, config.dtypes
        self._pools = {pool.name: pool for pool in _pools(config.values)}
        self._requests: dict[int, _Request] = {}
        self._next = 0
        self._constants: dict[str, torch.Tensor] = {}

    # --- requests ---

    @property
    def max_context(self) -> int:
        """Positions of the longest request."""
        return self._values["max_context"]

    @cached_property
    def rollback(self) -> int:
        """How many of its last positions a request may feed again, as decoding two tokens a step does with the first."""
        v, pools = self._values, self._pools
        spare = (
            pools["ori"].ring_rows - v["sliding_window"],
            pools["csa_state"].ring_rows - 2 * v["compress_rate_csa"],
            pools["hca_state"].ring_rows - v["compress_rate_hca"],
        )
        return 1 + min(spare)

    def admit(self, num_tokens: int | None = None, prompt_len: int = 0) -> int:
        """A handle for a new request of at most `num_tokens` positions (`max_context` if None), with all pages that it can need.

        `prompt_len` is how many of them the prompt has, for prefill in chunks to choose among equal scores as one call would.
        Raises StateError when that is less than 1 or more than `max_context`, the prompt is longer, or pages are short.
        """
        num_tokens = self.max_context if num_tokens is None else num_tokens
        if num_tokens < 1:
            raise StateError(f"a request of {num_tokens:,} tokens cannot be admitted, expected at least 1")
        if not 0 <= prompt_len <= num_tokens:
            raise StateError(f"a prompt of {prompt_len:,} tokens in a request of {num_tokens:,}, expected 0 to {num_tokens:,}")
        if num_tokens > self.max_context:
            raise StateError(
                f"a request of {num_tokens:,} tokens is longer than 'max_context' ({self.max_context:,})",
                hint=f"--set max_context={num_tokens}",
            )
        wanted = {name: pool.pages_for(num_tokens) for name, pool in self._pools.items()}
        for name, count in wanted.items():
            pool = self._pools[name]
            if count > len(pool.free):
                raise StateError(
                    f"no free pages: a request of {num_tokens:,} tokens needs {count} of pool '{pool.dim}', {len(pool.free)} of"
                    f" {pool.num_pages} are free with {len(self._requests)} requests admitted",
                    hint=f"release a request, or --set {pool.dim}={pool.num_pages + count - len(pool.free)}",
                )
        owned = {name: self._pools[name].take(count) for name, count in wanted.items()}
        tables = {name: _padded(pages, self._pools[name].table_pages) for name, pages in owned.items()}
        handle, self._next = self._next, self._next + 1
        self._requests[handle] = _Request(num_tokens, prompt_len, tables, owned)
        return handle

    def release(self, handle: int) -> None:
        """Gives the pages of a request back."""
        request = self._request(handle)
        for name, pages in request.owned.items():
            self._pools[name].free.extend(reversed(pages))
        del self._requests[handle]

    def length(self, handle: int) -> int:
        """Positions that a request has seen."""
        return self._request(handle).length

    def _request(self, handle: int) -> _Request:
        if handle not in self._requests:
            raise StateError(f"no request has handle {handle}: it was released or never admitted")
        return self._requests[handle]

    # --- calls ---

    def batch_inputs(self, rows: Sequence[Row], inputs: Mapping[str, TensorSpec]) -> dict[str, torch.Tensor]:
        """The `inputs` of a graph that a call needs for `rows`, those of them that are known here, on the device.

        `inputs` are specs by name: `position_ids` i32[T] says how many tokens a call takes, block tables [B, pages] how many
        requests (decode), [pages] that it is one (prefill). Row i gets tokens `i * S` and following; what is left is idle, with
        position -1. The rows count as seen from here on.

        Raises StateError for too many rows or tokens, and for a row that does not begin where its request stands.
        """
        batch = _Batch(inputs["position_ids"].shape[0], _num_requests(inputs))
        self._check(rows, batch)
        self._check_gathered(rows, inputs)
        for i, (handle, tokens, start) in enumerate(rows):
            request = self._requests[handle]
            batch.add(i, request, tokens, start)
            request.length = start + len(tokens)
        made = {name: self._input(name, spec, batch) for name, spec in inputs.items()}
        return {name: tensor.to(self.device) for name, tensor in made.items() if tensor is not None}

    def _check(self, rows: Sequence[Row], batch: _Batch) -> None:
        if len(rows) > batch.num_requests:
            raise StateError(f"{len(rows)} rows in a call that takes {batch.num_requests} requests")
        if len({handle for handle, _, _ in rows}) < len(rows):
            raise StateError("a request is twice in one call")
        for handle, tokens, start in rows:
            request = self._request(handle)
            if not 0 < len(tokens) <= batch.seq:
                raise StateError(
                    f"request {handle} has {len(tokens)} tokens in a call that takes 1 to {batch.seq} of each request"
                )
            if not max(request.length - self.rollback, 0) <= start <= request.length:
                raise StateError(
                    f"request {handle} goes on at position {start}, expected {request.length}: so many tokens were seen of it"
                )
            if start + len(tokens) > request.capacity:
                raise StateError(
                    f"request {handle} reaches {start + len(tokens):,} tokens, but was admitted for {request.capacity:,}"
                )

    def _check_gathered(self, rows: Sequence[Row], inputs: Mapping[str, TensorSpec]) -> None:
        """Prefill gathers K_CSA and K_HCA keys a token, which a configuration may have made fewer than `max_context` needs."""
        v = self._values
        for _, tokens, start in rows:
            seen = start + len(tokens)
            compressed = {"csa": min(seen // v["compress_rate_csa"], v["TOPK_CMP"]), "hca": seen // v["compress_rate_hca"]}
            for kind, num_rows in compressed.items():
                table = inputs.get(f"{kind}_block_table")
                needed, dim = v["RING"] + num_rows, f"K_{kind.upper()}"
                if table is not None and len(table.shape) == 1 and needed > v[dim]:
                    raise StateError(
                        f"a token at position {seen - 1:,} attends to {needed} keys, but prefill gathers {v[dim]} ('{dim}')",
                        hint=f"--set {dim}={kind.upper()}_KEYS gathers all that 'max_context' can need",
                    )

    def _input(self, name: str, spec: TensorSpec, batch: _Batch) -> torch.Tensor | None:
        if name == "prompt_len":
            lengths = [max(request.prompt_len, request.length) for request in batch.requests.values()]
            return torch.tensor(lengths or [0], dtype=torch.int32)
        if name in ("input_ids", "position_ids"):
            return (batch.tokens if name == "input_ids" else batch.positions).to(TORCH_DTYPES[spec.dtype])
        if name in _TABLES:
            return self._table(name, spec, batch)
        if name in _SLOTS:
            pool, slots = _SLOTS[name]
            return slots(self._pools[pool], batch)
        if name in ("swa_sparse_indices", "hca_sparse_indices", "swa_sparse_lens", "hca_sparse_lens"):
            return self._keys(name, spec, batch)
        if name in ("main_cos", "main_sin", "compress_cos", "compress_sin", "hadamard_idx"):
            return self._constant(name, spec)
        return None

    def _table(self, name: str, spec: TensorSpec, batch: _Batch) -> torch.Tensor:
        """Pages of every request; idle ones have page 0, which they neither read nor write."""
        table = torch.zeros((batch.num_requests, spec.shape[-1]), dtype=torch.int32)
        for i, request in batch.requests.items():
            table[i] = request.pages[_TABLES[name]]
        return table.view(spec.shape)

    def _keys(self, name: str, spec: TensorSpec, batch: _Batch) -> torch.Tensor:
        """Key indices (see `key_indices` of ops) of a chunk: the window, in HCA layers every visible compressed row."""
        ratio = self._values["compress_rate_hca"] if name.startswith("hca") else 0
        compressed = (batch.positions + 1) // ratio if ratio else torch.zeros_like(batch.positions)
        ring = self._pools["ori"].ring_rows
        if name.endswith("lens"):
            return torch.where(batch.positions >= 0, ring + compressed, 0).to(torch.int32).view(spec.shape)
        columns = spec.shape[1]
        keys = torch.full((batch.num_tokens, columns), -1)
        keys[:, :ring] = batch.window(self._values["sliding_window"], ring)
        row = torch.arange(columns - ring)
        keys[:, ring:] = torch.where(row < compressed[:, None], row + batch.num_tokens + ring, -1)
        return keys.to(torch.int32)

    def _constant(self, name: str, spec: TensorSpec) -> torch.Tensor:
        """Tables that no call changes, made once."""
        if name not in self._constants:
            dtype = TORCH_DTYPES[spec.dtype]
            if name == "hadamard_idx":
                quantised = self._dtypes["qact"] == "i8"
                made = {name: hadamard(spec.shape[0]) if quantised else torch.eye(spec.shape[0])}
            else:
                kind = name.split("_")[0]
                cos, sin = rope_tables(self._values, kind, spec.shape[0])
                made = {f"{kind}_cos": cos, f"{kind}_sin": sin}
            self._constants |= {key: table.to(self.device, dtype) for key, table in made.items()}
        return self._constants[name]


class _Batch:
    """The tokens of one call, token by token: id, position (-1 if idle), request, and how many of its request follow it."""

    def __init__(self, num_tokens: int, num_requests: int):
        self.num_tokens, self.num_requests = num_tokens, num_requests
        self.seq = num_tokens // num_requests
        self.tokens = torch.zeros(num_tokens, dtype=torch.int64)
        self.positions = torch.full((num_tokens,), -1, dtype=torch.int64)
        self.last = torch.full((num_tokens,), -1, dtype=torch.int64)
        self.requests: dict[int, _Request] = {}

    def add(self, index: int, request: _Request, tokens: Sequence[int], start: int) -> None:
        part = slice(index * self.seq, index * self.seq + len(tokens))
        self.tokens[part] = torch.tensor(tokens)
        self.positions[part] = torch.arange(start, start + len(tokens))
        self.last[part] = start + len(tokens) - 1
        self.requests[index] = request

    def slots(self, pool: PagePool, row: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """i64[T]: where in the pool each token's `row` of its request lies, -1 where not `keep`."""
        slots = torch.full((self.num_tokens,), -1, dtype=torch.int64)
        for index, request in self.requests.items():
            part = slice(index * self.seq, (index + 1) * self.seq)
            rows = row[part].clamp(min=0, max=pool.ring_rows - 1)
            pages = request.pages[pool.name].long()[rows // pool.page_rows]
            slots[part] = torch.where(keep[part], pages * pool.page_rows + rows % pool.page_rows, -1)
        return slots

    def window(self, window: int, ring: int) -> torch.Tensor:
        """Key indices [T, ring] of every token's last `window` positions: rows of this call, or rows of the ring before it."""
        key = self.positions[:, None] - torch.arange(ring - 1, -1, -1)
        first = self.positions.view(self.num_requests, self.seq)[:, :1].repeat_interleave(self.seq, dim=0)
        offset = torch.arange(self.num_requests).repeat_interleave(self.seq)[:, None] * self.seq
        index = torch.where(key >= first, key - first + offset, key % ring + self.num_tokens)
        return torch.where((key >= 0) & (key > self.positions[:, None] - window), index, -1)


def _ring_slots(pool: PagePool, batch: _Batch) -> torch.Tensor:
    """Rows of a ring, for the newest tokens of each request that it can hold."""
    newest = (batch.positions >= 0) & (batch.positions > batch.last - pool.ring_rows)
    return batch.slots(pool, batch.positions % pool.ring_rows, newest)


def _row_slots(pool: PagePool, batch: _Batch) -> torch.Tensor:
    """The compressed row of each token that closes a window."""
    count = batch.positions + 1
    return batch.slots(pool, count // pool.ratio - 1, (count > 0) & (count % pool.ratio == 0))


_TABLES = {
    "ori_block_table": "ori",
    "csa_block_table": "csa",
    "hca_block_table": "hca",
    "csa_state_block_table": "csa_state",
    "hca_state_block_table": "hca_state",
}
_SLOTS: Mapping[str, tuple[str, Callable[[PagePool, _Batch], torch.Tensor]]] = {
    "ori_slot_mapping": ("ori", _ring_slots),
    "csa_slot_mapping": ("csa", _row_slots),
    "hca_slot_mapping": ("hca", _row_slots),
    "csa_state_slot_mapping": ("csa_state", _ring_slots),
    "hca_state_slot_mapping": ("hca_state", _ring_slots),
}


def _pools(v: Mapping) -> tuple[PagePool, ...]:
    return (
        PagePool("ori", "KV_PAGES", v["KV_PAGES"], v["PAGE"], v["ORI_TABLE"]),
        PagePool("csa", "CSA_PAGES", v["CSA_PAGES"], v["PAGE"], v["CSA_TABLE"], v["compress_rate_csa"]),
        PagePool("hca", "HCA_PAGES", v["HCA_PAGES"], v["PAGE"], v["HCA_TABLE"], v["compress_rate_hca"]),
        PagePool("csa_state", "CSA_STATE_PAGES", v["CSA_STATE_PAGES"], v["CSA_STATE_ROWS"], v["CSA_STATE_TABLE"]),
        PagePool("hca_state", "HCA_STATE_PAGES", v["HCA_STATE_PAGES"], v["HCA_STATE_ROWS"], v["HCA_STATE_TABLE"]),
    )


def _padded(pages: Sequence[int], width: int) -> torch.Tensor:
    return torch.tensor([*pages, *[0] * (width - len(pages))], dtype=torch.int32)


def _num_requests(inputs: Mapping[str, TensorSpec]) -> int:
    """Requests of a call: the leading dimension of its block tables, 1 where they have none."""
    shapes = [spec.shape for name, spec in inputs.items() if name in _TABLES]
    return shapes[0][0] if shapes and len(shapes[0]) == 2 else 1


def first_call(inputs: Mapping[str, TensorSpec], config: Settings, seed: int) -> dict[str, torch.Tensor]:
    """See `ModelFamily.first_call`: ids, positions, tables and slots, for a graph with `position_ids`."""
    if "position_ids" not in inputs:
        return {}
    num_requests = _num_requests(inputs)
    seq = inputs["position_ids"].shape[0] // num_requests
    generator = torch.Generator().manual_seed(seed)
    store = StateStore(config, {})
    rows: list[Row] = []
    for _ in range(num_requests):
        tokens = torch.randint(0, config.values["vocab_size"], (seq,), generator=generator).tolist()
        rows.append((store.admit(seq, seq), tokens, 0))
    return store.batch_inputs(rows, inputs)
