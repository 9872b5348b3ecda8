"""What the machine asks of a model, and all that it knows of one.

A family (a folder here, or what an installed package brings) is one object that satisfies `ModelFamily`. The layers of
a configuration name it (`model: NAME`); `runner.models.family` finds it, in the folder of that name or by an entry point of the
group `ringgraph.models`. Nothing outside of a family's own folders knows its fields, tensors, ops or dims.
docs/add-a-model.md leads through an implementation.

What has a value or a body has a default: a family that inherits from the protocol writes only what is otherwise with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from runner.base.errors import ConfigError
from runner.base.tensor_spec import TensorSpec
from runner.models.names import NAMING, Naming

if TYPE_CHECKING:
    import torch

    from runner.base.errors import Diagnostic
    from runner.program.program import Program

Values = Mapping[str, Any]
"""Fields and dims of a resolved configuration, by name."""


class DeclaresState(Protocol):
    """What a configuration's `state:` section says; see `runner.models.declared.state.StateDeclaration`."""

    def store(self, settings: Settings, states: Mapping[str, TensorSpec], device: torch.device | str = "cpu") -> RequestState: ...
    def first_call(self, inputs: Mapping[str, TensorSpec], settings: Settings, seed: int) -> dict[str, torch.Tensor]: ...


class Settings(Protocol):
    """What a family is told of a configuration: `Config`, or anything with its values, dtypes and state."""

    @property
    def values(self) -> Values: ...
    @property
    def dtypes(self) -> Mapping[str, str]: ...
    @property
    def state(self) -> DeclaresState: ...


class Configuration(Settings, Protocol):
    """A configuration of which others can be made (`Config`). `fields` are lists too; `with_` raises ConfigError."""

    @property
    def fields(self) -> Mapping[str, Any]: ...
    def __getitem__(self, name: str, /) -> Any: ...
    def with_(self, *, sets: Sequence[str] = (), deploy: str | None = None, ep: int | None = None) -> Self: ...


C = TypeVar("C", bound=Configuration)


@dataclass(slots=True)
class Normalised:
    """A layer in the family's own fields: each with the key that it came from; problems as (key, message)."""

    fields: dict[str, tuple[Any, str]] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)


Element = tuple[str, tuple[int, ...]]
"""An element that a dynamic loop's range reads: the tensor's name and the index, as the graph writes them."""


class TripCounts(Protocol):
    """How many trips a dynamic loop makes when planning.

    `elements` are those that its range reads, `count` its range: from values of the elements to trips. `bound` is the most that
    it can make. Returns None for the bound.
    """

    def __call__(
        self, path: str, elements: tuple[Element, ...], bound: int, count: Callable[[Mapping[Element, int]], int], /
    ) -> int | None: ...


class DecidesLoop(Protocol):
    """Whether planned trip counts are for a dynamic loop; see `RoutedExperts.decides`."""

    def __call__(self, names: Collection[str], ops: Collection[str | None], /) -> bool: ...


PHASES = ("prefill", "decode")
"""The two calls that serve: prefill reads tokens of one prompt, decode a few tokens of each of many requests."""


@dataclass(frozen=True, slots=True)
class Drafting:
    """How decode calls take tokens that a model proposed itself, which count where the model would choose them too.

    A decode call has in row 0 of a request its last token and in row 1 a draft of the next. What was proposed the graphs keep by
    themselves, as state.

    graphs       by phase: `prefill` follows every prefill call on the same positions, with the tokens behind those, and proposes;
                 `decode` is in place of the usual one
    handed       inputs of the graph that follows prefill, each with the name of the tensor of prefill's graph that it gets
    kept         output of decode's graph: how many rows of each request count, i32[batch]
    generations  input of decode's graph: how often the place of each request was taken; -1 for a request whose rows all count
    """

    graphs: Mapping[str, str]
    handed: Mapping[str, str]
    kept: str
    generations: str


@dataclass(frozen=True, slots=True)
class Serving(Generic[C]):
    """How a family serves requests.

    config          what weights and the state of all requests are for
    graphs          by phase, what a call runs: a graph by name, or a path
    configs         by phase, the configuration of that graph: `config` in the phase's deployment
    logits          the output of both graphs with logits f32[tokens of a call, vocabulary]
    batch, seq      requests of a decode call, and tokens of each
    prefill_tokens  tokens of a prompt that a prefill call takes
    drafting        how tokens are drafted, None where they are not
    undrafted       why they are not, where a decode call has room for drafts
    """

    config: C
    graphs: Mapping[str, str]
    configs: Mapping[str, C]
    logits: str
    batch: int
    seq: int
    prefill_tokens: int
    drafting: Drafting | None = None
    undrafted: str = ""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens are ids below `size`; those of `end` end a sequence."""

    size: int
    end: tuple[int, ...]


Row = tuple[int, Sequence[int], int]
"""A request's part of a call: its handle, token ids, and the position of the first."""


class RequestState(Protocol):
    """What requests of one rank leave behind between calls; raises StateError for what does not fit."""

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The programs' states, by source name."""
        ...

    def admit(self, num_tokens: int, prompt_len: int) -> int:
        """Room for a request of at most `num_tokens` positions, `prompt_len` of them its prompt's; returns its handle."""
        ...

    def release(self, handle: int) -> None:
        """Gives back what a request had."""
        ...

    def batch_inputs(self, rows: Sequence[Row], inputs: Mapping[str, TensorSpec]) -> dict[str, torch.Tensor]:
        """Those of a graph's `inputs` that a call on `rows` needs and this state knows; the rows count as seen from here on."""
        ...


class Undo(Protocol):
    """What a call is about to write over."""

    def take_back(self, kept: Sequence[int]) -> None:
        """Of row i only the first `kept[i]` tokens count; all others leave no trace."""
        ...


class DraftState(RequestState, Protocol):
    """State of requests that can take tokens back."""

    def before(self, rows: Sequence[Row], inputs: Mapping[str, TensorSpec]) -> Undo:
        """Asked before `batch_inputs` of the same call: what is needed to take back tokens behind the first of each row."""
        ...

    def further_inputs(self, rows: Sequence[Row], inputs: Mapping[str, TensorSpec]) -> dict[str, torch.Tensor]:
        """The inputs of another graph's call on positions that count as seen already."""
        ...


class Recorder(Protocol):
    """Watches the calls of one rank's session, and keeps something of each."""

    @property
    def tensors(self) -> Mapping[str, Collection[int]]:
        """The tensors that it wants to see after a call, by phase."""
        ...

    def admitted(self, handle: int) -> None:
        """A request begins; requests begin in the order of the rank's prompts."""
        ...

    def called(self, phase: str, rows: Sequence[Row], seen: Mapping[int, torch.Tensor]) -> None:
        """A call on `rows` is done (idle without any); `seen` are copies of what was wanted, where it was written."""
        ...


class Recording(Protocol):
    """Which experts every token chose, on all ranks of a run."""

    @property
    def num_ranks(self) -> int: ...
    def write(self, path: Path) -> None:
        """Writes a file that `RoutedExperts.read` reads, whole or not at all; raises OSError."""
        ...


class RoutingRecorder(Recorder, Protocol):
    """A recorder of the experts that tokens choose."""

    def packed(self) -> bytes:
        """All that was kept on this rank."""
        ...

    def recording(self, packed: Sequence[bytes]) -> Recording:
        """What all ranks kept, by rank."""
        ...


@dataclass(frozen=True, slots=True)
class Section:
    """A table, and sentences under it; columns whose title ends in `>` are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[str, ...]


class DepthReport(Protocol):
    """How deep receive buffers must be."""

    def as_json(self) -> dict[str, Any]: ...
    def sections(self) -> Sequence[Section]: ...
    def plot(self, path: Path) -> None:
        """Draws it; raises RinggraphError without matplotlib or for an unknown format."""
        ...


class RoutedExperts(Protocol):
    """What a family brings whose tokens choose experts."""

    def decides(self, names: Collection[str], ops: Collection[str | None], /) -> bool:
        """Whether `--routing` decides a dynamic loop, as its trips follow from the rows that an expert receives; others make
        their most trips. The range reads tensors of these `names`, which tasks of these `ops` wrote (none if from outside)."""
        return True

    def recorder(self, serving: Serving[Any], programs: Mapping[str, Program], rank: int, num_ranks: int) -> RoutingRecorder:
        """A recorder for one rank of a session; `programs` by phase."""
        ...

    def read(self, path: Path) -> Recording:
        """A recording; raises RinggraphError that names the line, or OSError."""
        ...

    def depths(
        self, recording: Recording, config: Configuration, where: str, expanded: Callable[[str, Any], Program]
    ) -> DepthReport:
        """The receive depth that routing needs under `config`, whose number of ranks may be another than the recording's.

        `where` names the recording in errors, `expanded` makes the program of a graph under a configuration. Raises
        RinggraphError where the recording is of another model or of longer calls.
        """
        ...


FLAVOURS = ("f32", "bf16", "w8a8", "fp8", "fp8-e8m0", "fp4")
"""How a checkpoint's weights can be stored; each but the first two is an encoding too, of the weights that it quantises."""


class TensorNames(Protocol):
    """What the names of a checkpoint's tensors say. All but `canonical` take canonical names."""

    naming: Naming = NAMING
    """What a quantised weight's scale and zero points are called."""

    plain: Sequence[str] = ()
    """Tensors that no flavour quantises and that have the dtype of plain weights; none stand for all tensors there are."""

    unused: str = "nothing"
    """What `is_unused` tensors are part of, in words."""

    def canonical(self, stored_name: str) -> str:
        """The family's own name of a tensor, of that or another tool's name."""
        return stored_name

    def is_unused(self, name: str) -> bool:
        """Whether a tensor is of a part that a checkpoint may be without, and that nothing needs which runs without it."""
        return False

    def encoding(self, name: str, flavour: str) -> str:
        """How a flavour (`runner.checkpoint.encodings`) stores a tensor: `plain`, `w8a8`, `fp8`, `fp8-e8m0` or `fp4`."""
        return "plain"


@dataclass(frozen=True, slots=True)
class Joined:
    """A tensor that holds others: `parts` side by side along `dim`, each with its size in all, dealt to `groups` alike.

    is_stack  the parts lie one behind the other along a first dimension, which they have not themselves
    """

    whole: str
    parts: tuple[str, ...]
    sizes: tuple[int, ...]
    dim: int = 0
    groups: int = 1
    is_stack: bool = False


class CheckpointLayout(TensorNames, Protocol):
    """Which tensors a checkpoint of the family holds."""

    def expected(self, values: Values, dtype: str = "f32") -> dict[str, TensorSpec]:
        """Every tensor of the model, unquantised; `dtype` is that of plain weights."""
        ...

    def unusable(self, name: str, value: torch.Tensor, values: Values) -> str | None:
        """What is wrong with the values of a tensor that was loaded, to be read behind its name; None if nothing.

        Tensors of integers are judged before anything is loaded too.
        """
        return None

    def further_layers(self, names: Iterable[str], values: Values) -> Sequence[Collection[str]]:
        """Whole layers that a checkpoint of tensors `names` has behind the last one of a configuration: the names of each.

        Such a configuration takes the first layers of the checkpoint.
        """
        return ()

    def joined(self, name: str, values: Values) -> Sequence[Joined]:
        """Every way in which the tensor `name` is held by others on disk, or holds others."""
        return ()

    def tied(self, values: Values) -> Mapping[str, str]:
        """Tensors that a configuration has no values of its own for, each with the tensor that it is."""
        return {}

    def of_graph(self, name: str, values: Values) -> str:
        """What a tensor is called in the checkpoint that graphs call `name`: that, or another of the family's own names."""
        return name

    def without_unused(self, values: Values) -> Values:
        """The values of the same model where its `is_unused` tensors are left out."""
        return values

    def flavour(self, values: Values) -> str:
        """The flavour that a configuration runs as it is."""
        return "f32"

    def random(self, name: str, spec: TensorSpec, values: Values, generator: torch.Generator) -> torch.Tensor:
        """Values of a tensor for a random checkpoint, of the shape of `spec`; they are rounded to its dtype."""
        ...

    def config_json(self, values: Values, dtype: str, flavour: str, described: Mapping[str, Any]) -> dict[str, Any]:
        """The `config.json` of a checkpoint of a flavour, as other tools read it; `described` is that of the checkpoint which it
        was made from, whose other keys stay."""
        ...


class ModelFamily(Protocol):
    """One family of models."""

    name: str
    layout: CheckpointLayout

    model_types: Sequence[str]
    """What a `config.json` of the family can have as its `model_type`."""

    base_layer: str | Path
    """The configuration under every layer of the family: a shipped file of `graphs/config` by name, or a path."""

    routed_experts: RoutedExperts | None = None
    """None for a family whose tokens choose nothing."""

    def fields(self) -> Mapping[str, Mapping[str, Any]]:
        """Every configuration field of the family, with its JSON Schema. `x-alias` marks another tool's spelling, which
        `normalise` replaces; `x-machine` marks a field that generic code knows by name. `deploy` need not be among them."""
        ...

    def normalise(self, given: Values, *, whole: bool) -> Normalised:
        """Other tools' spellings in our fields, without keys that mean nothing here; `whole`: this is a complete `config.json`,
        which has defaults. By default there are neither other spellings nor defaults."""
        return Normalised({key: (value, key) for key, value in given.items()})

    def impossible(self, values: Values, given: Mapping[str, Any], deploy: str) -> list[Diagnostic]:
        """Combinations of fields that cannot be, each told at a value of `given` (`runner.language.given.Given`)."""
        return []

    def trip_counts(self, text: str, settings: Settings) -> TripCounts | None:
        """The routing that `--routing text` means under a configuration, None for the bound; raises ConfigError.

        By default the family has no routing, and any but the bound is refused.
        """
        if text != "bound":
            hint = "leave it out: every dynamic loop makes as many trips as it can"
            raise ConfigError(f"--routing {text}: models of family '{self.name}' have no routing", hint=hint)
        return None

    def serving(self, config: C, decode: str | None = None) -> Serving[C]:
        """What a session runs; `decode` names the deployment that decodes, the family's usual one without. Raises ConfigError."""
        ...

    def fitting(self, config: C, lengths: Sequence[int], max_new_tokens: int, decode: str | None = None) -> C:
        """`config` with room for prompts of these lengths, and for as many requests as decode takes; raises ConfigError."""
        return config

    def vocabulary(self, config: Configuration) -> Vocabulary: ...

    def is_narrow(self, settings: Settings) -> bool:
        """Whether the model's ops are so short that more than one thread for each would slow them."""
        return False

    def request_state(self, settings: Settings, states: Mapping[str, TensorSpec], device: torch.device | str) -> RequestState:
        """State of all requests, for programs with these `states`; by default as the configuration declares it."""
        return settings.state.store(settings, states, device)

    def first_call(self, inputs: Mapping[str, TensorSpec], settings: Settings, seed: int) -> dict[str, torch.Tensor]:
        """Those of a graph's `inputs` that `request_state` knows, for a call on random tokens of as many requests as it takes.

        Empty for a graph that takes no requests. Raises StateError where the configuration has no room for them.
        What is left out is random, integers zero. By default as the configuration declares it.
        """
        return settings.state.first_call(inputs, settings, seed)
