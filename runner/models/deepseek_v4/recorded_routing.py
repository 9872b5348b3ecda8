"""Recorded routing: which experts every token chose in every layer, call by call; no torch here, planning reads it too.

The file is JSON Lines: a header, then one line for each call of a graph on each rank.

    {"format": "ringgraph-routing", "version": 1, "n_routed_experts": 16, "num_experts_per_tok": 3, "ranks": 2, "lines": 8}
    {"call": 0, "phase": "prefill", "rank": 0, "tokens": [[0, 0], [0, 1]], "experts": {"0": [[3, 9, 1], [0, 5, 2]], "1": ...}}

`tokens` are pairs of a prompt's number and the position in it; `experts` has, for each layer, one list of expert ids per token in
the same order, and the same layers in every line. Idle tokens are not routed and not recorded; a rank without any is left out.
`lines` is how many follow the header, by which a file that was cut is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.base.errors import RinggraphError
from runner.base.files import whole_file
from runner.base.reading import MAX_DIGITS, parse_json_line
from runner.models.protocols import PHASES, Row
from runner.program.program import Program

if TYPE_CHECKING:
    import torch

FORMAT, VERSION = "ringgraph-routing", 1

Routes = tuple[tuple[int, ...], ...]
"""Expert ids, one tuple a token."""


@dataclass(frozen=True, slots=True)
class RoutedCall:
    """The routes of one call of a graph on one rank; see the module docstring."""

    call: int
    phase: str
    rank: int
    tokens: tuple[tuple[int, int], ...]
    experts: Mapping[int, Routes]


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """A recording; `calls` are in order of their number, then of their rank."""

    num_experts: int
    topk: int
    num_ranks: int
    calls: tuple[RoutedCall, ...] = field(default=())

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted({layer for call in self.calls for layer in call.experts}))

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all; raises OSError."""
        write_routing(path, self)

    def rows(self, phase: str) -> list[dict[int, list[int]]]:
        """For each call of a phase and each layer: rows that every expert gets from all ranks together."""
        found: dict[int, dict[int, list[int]]] = {}
        for call in self.calls:
            if call.phase != phase:
                continue
            layers = found.setdefault(call.call, {})
            for layer, routes in call.experts.items():
                counts = layers.setdefault(layer, [0] * self.num_experts)
                for chosen in routes:
                    for expert in chosen:
                        counts[expert] += 1
        return [found[number] for number in sorted(found)]

    def spread(self, num_ranks: int, prefill_tokens: int, batch: int) -> RoutingTable:
        """The same tokens as another number of ranks would meet them: prompt i on rank i mod `num_ranks`, its prefill tokens in
        chunks of `prefill_tokens`, a rank's prompts one after another; then decode calls with `batch` prompts of a rank each."""
        prefill, decode = self._by_prompt("prefill"), self._by_prompt("decode")
        calls: list[RoutedCall] = []
        for rank in range(num_ranks):
            mine = [prefill[prompt] for prompt in prefill if prompt % num_ranks == rank]
            chunks = [tokens[at : at + prefill_tokens] for tokens in mine for at in range(0, len(tokens), prefill_tokens)]
            calls += [_made(number, "prefill", rank, chunk) for number, chunk in enumerate(chunks)]
        first = 1 + max((call.call for call in calls), default=-1)
        waiting = [[decode[prompt] for prompt in decode if prompt % num_ranks == rank] for rank in range(num_ranks)]
        while any(waiting):
            now = [prompts[:batch] for prompts in waiting]
            steps = max(len(tokens) for prompts in now for tokens in prompts)
            for step, (rank, prompts) in product(range(steps), enumerate(now)):
                chunk = [tokens[step] for tokens in prompts if step < len(tokens)]
                if chunk:
                    calls.append(_made(first + step, "decode", rank, chunk))
            first += steps
            waiting = [prompts[batch:] for prompts in waiting]
        calls.sort(key=lambda call: (call.call, call.rank))
        return RoutingTable(self.num_experts, self.topk, num_ranks, tuple(calls))

    def _by_prompt(self, phase: str) -> dict[int, list[_RoutedToken]]:
        """Every prompt's tokens of a phase, in order of their position."""
        found: dict[int, list[_RoutedToken]] = {}
        for call in self.calls:
            if call.phase == phase:
                for at, token in enumerate(call.tokens):
                    experts = {layer: routes[at] for layer, routes in call.experts.items()}
                    found.setdefault(token[0], []).append((token, experts))
        return {prompt: sorted(tokens, key=lambda token: token[0]) for prompt, tokens in sorted(found.items())}


_RoutedToken = tuple[tuple[int, int], dict[int, tuple[int, ...]]]
"""A token and its experts by layer."""


def _made(number: int, phase: str, rank: int, chunk: Sequence[_RoutedToken]) -> RoutedCall:
    layers = chunk[0][1]
    experts = {layer: tuple(token[1][layer] for token in chunk) for layer in layers}
    return RoutedCall(number, phase, rank, tuple(token for token, _ in chunk), experts)


class RoutingRecorder:
    """Keeps which experts the tokens of one rank's calls chose; see `runner.models.protocols.RoutingRecorder`."""

    def __init__(self, programs: Mapping[str, Program], num_experts: int, topk: int, seq: int, rank: int, num_ranks: int):
        """`seq` is how many tokens of each request a decode call takes."""
        self._seq = {"prefill": 0, "decode": seq}
        routed = {phase: routed_tensors(program) for phase, program in programs.items()}
        layers = set.intersection(*map(set, routed.values()))  # a draft layer reads what it is given, not every token
        self._indices = {phase: {n: at for n, at in found.items() if n in layers} for phase, found in routed.items()}
        self._num_experts, self._topk = num_experts, topk
        self._rank, self._num_ranks = rank, num_ranks
        self._prompts: dict[int, int] = {}
        self._num_calls = 0
        self._calls: list[RoutedCall] = []

    @property
    def tensors(self) -> dict[str, list[int]]:
        return {phase: list(indices.values()) for phase, indices in self._indices.items()}

    def admitted(self, handle: int) -> None:
        self._prompts[handle] = self._rank + self._num_ranks * len(self._prompts)

    def called(self, phase: str, rows: Sequence[Row], seen: Mapping[int, torch.Tensor]) -> None:
        at = [i * self._seq[phase] + j for i, (_, tokens, _) in enumerate(rows) for j in range(len(tokens))]
        if at:
            routed = tuple((self._prompts[handle], start + j) for handle, tokens, start in rows for j in range(len(tokens)))
            experts = {layer: tuple(map(tuple, seen[tensor][at].tolist())) for layer, tensor in self._indices[phase].items()}
            self._calls.append(RoutedCall(self._num_calls, phase, self._rank, routed, experts))
        self._num_calls += 1

    def packed(self) -> bytes:
        return json.dumps([[c.call, c.phase, c.rank, c.tokens, list(c.experts.items())] for c in self._calls]).encode()

    def recording(self, packed: Sequence[bytes]) -> RoutingTable:
        found = [_routed_call(line) for data in packed for line in json.loads(data)]
        found.sort(key=lambda call: (call.call, call.rank))
        return RoutingTable(self._num_experts, self._topk, self._num_ranks, tuple(found))


def _routed_call(line: Sequence[Any]) -> RoutedCall:
    call, phase, rank, tokens, experts = line
    chosen = {layer: tuple(map(tuple, routes)) for layer, routes in experts}
    return RoutedCall(call, phase, rank, tuple((prompt, position) for prompt, position in tokens), chosen)


def routed_tensors(program: Program) -> dict[int, int]:
    """The tensor with the chosen experts i32[T, K] of every layer: what `dispatch` sends by."""
    return {int(str(t.attrs["layer"])): t.operands["indices"].tensor for t in program.tasks if t.op == "dispatch"}


def write_routing(path: Path, table: RoutingTable) -> None:
    """Writes a table, whole or not at all; raises OSError."""
    header = {"format": FORMAT, "version": VERSION, "n_routed_experts": table.num_experts, "num_experts_per_tok": table.topk}
    header |= {"ranks": table.num_ranks, "lines": len(table.calls)}
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(header) + "\n")
        for call in table.calls:
            line = {"call": call.call, "phase": call.phase, "rank": call.rank, "tokens": call.tokens, "experts": call.experts}
            file.write(json.dumps(line, separators=(",", ":")) + "\n")


def read_routing(path: Path) -> RoutingTable:
    """Reads a table; raises RinggraphError that names the line, or OSError."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    number, header = next(_objects(path, lines[:1]), (1, {}))
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise RinggraphError(
            f"{path}:{number}: not a routing table: expected a header with format '{FORMAT}', version {VERSION}",
            hint="ringgraph generate --record-routing FILE writes one",
        )
    for name in ("n_routed_experts", "num_experts_per_tok", "ranks"):
        if not _whole(header.get(name)) or header[name] < 1:
            raise RinggraphError(f"{path}:{number}: '{name}' is {json.dumps(header.get(name))}, expected a number above 0")
    table = RoutingTable(header["n_routed_experts"], header["num_experts_per_tok"], header["ranks"])
    found = {at: _call(f"{path}:{at}", value, table) for at, value in _objects(path, lines[1:], 2)}
    _check_together(path, found)
    if header.get("lines", len(found)) != len(found):
        raise RinggraphError(
            f"{path}: has {len(found)} lines behind its header, which says {json.dumps(header['lines'])}: was it cut?"
        )
    calls = list(found.values())
    calls.sort(key=lambda call: (call.call, call.rank))
    return RoutingTable(table.num_experts, table.topk, table.num_ranks, tuple(calls))


def _check_together(path: Path, found: Mapping[int, RoutedCall]) -> None:
    """Raises RinggraphError for lines, by their number, that contradict earlier ones."""
    seen: dict[tuple[int, int], int] = {}
    phases: dict[int, str] = {}
    first = next(iter(found.values()), None)
    for at, call in found.items():
        assert first is not None
        before = seen.setdefault((call.call, call.rank), at)
        if before != at:
            raise RinggraphError(f"{path}:{at}: call {call.call} of rank {call.rank} is in line {before} already")
        if phases.setdefault(call.call, call.phase) != call.phase:
            raise RinggraphError(
                f"{path}:{at}: call {call.call} is '{call.phase}' here and '{phases[call.call]}' on another rank"
            )
        if call.experts.keys() != first.experts.keys():
            raise RinggraphError(f"{path}:{at}: layers {_listed(call)}, expected those of the first call, {_listed(first)}")


def _listed(call: RoutedCall) -> str:
    return ", ".join(map(str, call.experts)) or "none"


def _objects(path: Path, lines: Iterable[str], first: int = 1) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, first):
        if not line.strip():
            continue
        value = parse_json_line(f"{path}:{number}", line)
        if not isinstance(value, dict):
            raise RinggraphError(f"{path}:{number}: expected a JSON object")
        yield number, value


def _call(where: str, value: Mapping[str, Any], table: RoutingTable) -> RoutedCall:
    number, phase, rank = value.get("call"), value.get("phase"), value.get("rank")
    if not _whole(number) or phase not in PHASES or not _whole(rank):
        raise RinggraphError(f"{where}: expected 'call' and 'rank' as numbers and 'phase' as one of {', '.join(PHASES)}")
    assert isinstance(number, int) and isinstance(rank, int)
    if rank >= table.num_ranks:
        raise RinggraphError(f"{where}: rank {rank}, expected less than {table.num_ranks}, the ranks of the header")
    tokens, experts = value.get("tokens"), value.get("experts")
    if not isinstance(tokens, list) or not tokens or not all(_numbers(token) and len(token) == 2 for token in tokens):
        raise RinggraphError(f"{where}: expected 'tokens' as a list of [prompt, position], with one at least")
    if not isinstance(experts, dict) or not experts or not all(map(_is_layer, experts)):
        raise RinggraphError(f"{where}: expected 'experts' as lists by layer number")
    for layer, routes in experts.items():
        _check_routes(f"{where}: layer {layer}", routes, len(tokens), table)
    chosen = {int(layer): tuple(map(tuple, routes)) for layer, routes in sorted(experts.items(), key=lambda item: int(item[0]))}
    return RoutedCall(number, phase, rank, tuple((token[0], token[1]) for token in tokens), chosen)


def _is_layer(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) <= MAX_DIGITS


def _check_routes(where: str, routes: Any, num_tokens: int, table: RoutingTable) -> None:
    if not isinstance(routes, list) or len(routes) != num_tokens:
        raise RinggraphError(f"{where}: expected one list of expert ids for each of the {num_tokens} tokens")
    for at, chosen in enumerate(routes):
        if not _numbers(chosen) or len(chosen) != table.topk or len(set(chosen)) != table.topk:
            raise RinggraphError(f"{where}: token {at} has {json.dumps(chosen)}, expected {table.topk} different expert ids")
        if max(chosen) >= table.num_experts:
            raise RinggraphError(f"{where}: token {at} chose expert {max(chosen)}, expected less than {table.num_experts}")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_whole, value))
