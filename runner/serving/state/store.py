"""State of all requests of one rank, as a declaration says: tensors, admission, and the inputs of calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from runner.base.errors import ConfigError, StateError
from runner.base.tensor_spec import TensorSpec
from runner.execution.storage import TORCH_DTYPES
from runner.models.declared.pools import Kind, Requests
from runner.models.declared.state import Evaluator, StateDeclaration
from runner.models.protocols import Row, Settings
from runner.serving.state.calls import Call, Geometry, geometry
from runner.serving.state.constants import constant
from runner.serving.state.rollback import Before, Place, rows_of


class DeclaredState:
    """See `RequestState`.

    `states` are the specs of the programs' states by source name (`layers.3.kv_cache`); `tensors` are they, zeroed, on `device`.
    Nothing is cleared when pages change hands, other than of kinds declared so: what a request has not written itself, no op
    reads. Raises ConfigError for a declaration that does not fit the configuration, or states that do not fit it.
    """

    def __init__(
        self,
        declaration: StateDeclaration,
        settings: Settings,
        states: Mapping[str, TensorSpec],
        device: str | torch.device = "cpu",
    ):
        self.device = torch.device(device)
        self.declaration, self._settings = declaration, settings
        sizes = declaration.sizes(settings)
        self.requests = Requests(sizes.kinds, sizes.longest, sizes.longest_name)
        self._kinds = {kind.name: kind for kind in sizes.kinds}
        evaluator = Evaluator(settings.values, settings.dtypes)
        self._held = {kind.name: _held(kind, declaration, states, evaluator) for kind in sizes.kinds}
        self.tensors = {
            name: torch.zeros(spec.shape, dtype=TORCH_DTYPES[spec.dtype], device=self.device) for name, spec in states.items()
        }
        self._constants: dict[tuple[str, TensorSpec], torch.Tensor] = {}

    # --- requests ---

    @property
    def rollback(self) -> int | None:
        """How many of its last positions a request may feed again, as decoding two tokens a step does; None for all."""
        return self.requests.rollback

    def admit(self, num_tokens: int | None = None, prompt_len: int = 0) -> int:
        """A handle for a new request of at most `num_tokens` positions (the longest there can be if None), with all its pages.

        `prompt_len` is how many of them the prompt has, for prefill in chunks to choose among equal scores as one call would.
        Raises StateError when that is less than 1 or more than the longest, the prompt is longer, or pages are short.
        """
        longest = self.requests.longest
        most = (1 << 62) if longest is None else longest
        handle = self.requests.admit(most if num_tokens is None else num_tokens, prompt_len)
        for name, pages in self.requests[handle].pages.items():
            if (kind := self._kinds[name]).clear:
                self._clear(kind, pages)
        return handle

    def _clear(self, kind: Kind, pages: Sequence[int]) -> None:
        for name in self._held[kind.name]:
            tensor = self.tensors[name]
            each = tensor.shape[kind.axis] // kind.pages  # rows of a page, where pages and rows are one axis
            rows = [page * each + row for page in pages for row in range(each)]
            tensor.index_fill_(kind.axis, torch.tensor(rows, device=tensor.device, dtype=torch.int64), 0)

    def release(self, handle: int) -> None:
        """Gives the pages of a request back."""
        self.requests.release(handle)

    @property
    def lengths(self) -> dict[int, int]:
        """Positions that every request has seen, by handle."""
        return {handle: request.length for handle, request in self.requests.admitted.items()}

    def length(self, handle: int) -> int:
        """Positions that a request has seen."""
        return self.requests[handle].length

    # --- calls ---

    def geometry(self, inputs: Mapping[str, TensorSpec]) -> Geometry | None:
        """Tokens and requests of a call with these `inputs`, None where it takes no requests; raises StateError for misfits."""
        return geometry(self.declaration.inputs, inputs, self._kinds)

    def batch_inputs(self, rows: Sequence[Row], inputs: Mapping[str, TensorSpec]) -> dict[str, torch.Tensor]:
        """The `inputs` of a graph that a call needs for `rows`, those of them that are known here, on the device.

        Specs by name say how many tokens and requests a call takes. The rows count as seen from here on. Raises StateError for
        inputs that do not fit, too many rows or tokens, and for a row that does not begin where its request stands.
        """
        roles, shape = self.declaration.inputs, self.geometry(inputs)
        made = {name: self._constant(name, spec) for name, spec in inputs.items() if name in self.declaration.constants}
        if shape is None:
            return made
        call = Call(shape.num_tokens, shape.for_rows(rows), self.requests.pools)
        self._check(rows, call)
        self._check_gathered(rows, inputs)
        for index, (handle, tokens, start) in enumerate(rows):
            request = self.requests[handle]
            request.move(start + len(tokens))
            call.add(index, request, tokens, start)
        told = {name: call.told(roles[name], spec) for name, spec in inputs.items() if name in roles}
        return made | {name: tensor.to(self.device) for name, tensor in told.items()}

    def further_inputs(self, rows: Sequence[Row], inputs: Mapping[str, TensorSpec]) -> dict[str, torch.Tensor]:
        """The same for another graph's call on positions that count as seen already; nothing counts as seen by it."""
        made = {name: self._constant(name, spec) for name, spec in inputs.items() if name in self.declaration.constants}
        roles, call = self.declaration.inputs, self._call(rows, inputs)
        if call is None:
            return made
        told = {name: call.told(roles[name], spec) for name, spec in inputs.items() if name in roles}
        return made | {name: tensor.to(self.device) for name, tensor in told.items()}

    def before(self, rows: Sequence[Row], inputs: Mapping[str, TensorSpec]) -> Before:
        """What a call on `rows` will write over for the tokens behind the first of each row, for `Before.take_back`.

        Asked before `batch_inputs`. It knows the rows of every state that a kind `holds`. Raises StateError where a state is
        rewritten by every token.
        """
        running = next((kind.name for kind in self._kinds.values() if kind.kind == "running"), None)
        if running is not None:
            raise StateError(f"tokens cannot be taken back: every token rewrites state '{running}'")
        call = self._call(rows, inputs)
        places: list[Place] = []
        for name, kind in self._kinds.items():
            if call is not None and self._held[name]:
                slots = call.slots(kind).to(self.device)
                places += [Place(rows_of(self.tensors[state], kind), slots) for state in self._held[name]]
        seq = 1 if call is None else call.seq
        tokens = [(index, at, index * seq + at) for index, row in enumerate(rows) for at in range(1, len(row[1]))]
        return Before(tokens, places, [(self.requests[handle], start) for handle, _, start in rows])

    def _call(self, rows: Sequence[Row], inputs: Mapping[str, TensorSpec]) -> Call | None:
        """The tokens of a call; None for a graph that takes no requests."""
        shape = self.geometry(inputs)
        if shape is None:
            return None
        call = Call(shape.num_tokens, shape.for_rows(rows), self.requests.pools)
        for index, (handle, tokens, start) in enumerate(rows):
            call.add(index, self.requests[handle], tokens, start)
        return call

    def _check(self, rows: Sequence[Row], call: Call) -> None:
        if len(rows) > call.num_requests:
            raise StateError(f"{len(rows)} rows in a call that takes {call.num_requests} requests")
        if len({handle for handle, _, _ in rows}) < len(rows):
            raise StateError("a request is twice in one call")
        for handle, tokens, start in rows:
            self.requests[handle]
            if not 0 < len(tokens) <= call.seq:
                raise StateError(
                    f"request {handle} has {len(tokens)} tokens in a call that takes 1 to {call.seq} of each request"
                )
            self.requests.check(handle, len(tokens), start)

    def _check_gathered(self, rows: Sequence[Row], inputs: Mapping[str, TensorSpec]) -> None:
        """A call of one request may gather fewer keys a token than the longest request needs."""
        for name, gathers in self.declaration.gathers.items():
            if name not in inputs or len(inputs[name].shape) != 1:
                continue
            for _, tokens, start in rows:
                seen, evaluator = start + len(tokens), Evaluator(self._settings.values, self._settings.dtypes)
                needed = evaluator.value(f"keys of '{name}'", gathers["keys"], seen=seen)
                most = evaluator.value(f"most keys of '{name}'", gathers["most"])
                if evaluator.problems:
                    raise ConfigError(evaluator.problems)
                if needed > most:
                    enough, dim = gathers.get("enough"), gathers["most"].value
                    raise StateError(
                        f"a token at position {seen - 1:,} attends to {needed} keys, but prefill gathers {most} ('{dim}')",
                        hint=f"--set {dim}={enough.value} gathers all that '{self.requests.longest_name}' can need"
                        if enough is not None
                        else None,
                    )

    def _constant(self, name: str, spec: TensorSpec) -> torch.Tensor:
        """A table that no call changes, made once."""
        if (name, spec) not in self._constants:
            evaluator = Evaluator(self._settings.values, self._settings.dtypes)
            found = self.declaration.constant(name, self.declaration.constants[name], evaluator)
            if found is None:
                raise ConfigError(evaluator.problems)
            try:
                made = constant(*found, spec.shape)
            except StateError as error:
                given = self.declaration.constants[name]["function"]
                raise StateError([given.problem("C104", f"constant '{name}': {error.message}", error.hint)]) from None
            self._constants[name, spec] = made.to(self.device, TORCH_DTYPES[spec.dtype])
        return self._constants[name, spec]


def _held(kind: Kind, declaration: StateDeclaration, states: Mapping[str, TensorSpec], evaluator: Evaluator) -> list[str]:
    """The states that are of a kind; raises ConfigError where one has no axis of its pages."""
    found = declaration.held(kind.name, states, evaluator)
    problems = evaluator.problems
    for name in found:
        shape = states[name].shape
        pages = shape[kind.axis] if kind.axis < len(shape) else None
        if pages not in (kind.pages, kind.pages * kind.page):
            message = f"state '{name}' is {states[name]}, expected {kind.pages} ('{kind.unit}') along axis {kind.axis}"
            problems.append(declaration.kinds[kind.name].given.problem("C104", message, "the kind's 'holds' and 'axis' name it"))
    if problems:
        raise ConfigError(problems)
    return found
