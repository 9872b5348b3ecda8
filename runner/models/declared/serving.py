"""The section `serving` of a layer: how calls that serve are made, as data.

    serving:
      graphs: {prefill: my_prefill, decode: my_decode}      # names, files beside the layer, or paths
      deployments: {prefill: prefill, decode: decode}       # those of these names without
      logits: logits                                        # the output of both graphs with a row of scores for every token
      batch: batch                                          # requests of a decode call
      seq: 1                                                # tokens of each
      prefill_tokens: seq                                   # tokens of a prompt that a prefill call takes
      vocabulary: tokens
      end: end_token                                        # a field: a token, a list of them, or null; or a list
      longest: positions                                    # positions of a request that the model allows
      room: {longest: "max(longest, positions)", slots: "max(slots, requests)"}
      narrow: width < 1024                                  # ops so short that one thread for each is best
      drafts:                                               # tokens that the model proposes to itself, with `seq` of 2 or more
        prefill: my_prefill_drafts                          # follows every prefill call, and proposes
        decode: my_decode_drafts                            # in place of the usual graph: verifies, and proposes
        handed: {streams: hidden}                           # inputs of the first that are tensors of prefill's graph
        kept: kept                                          # output of the second: rows of each request that count
        generations: taken                                  # its input that tells how often a request's place was taken
        when: draft_layers == 1                             # without, always
        because: one draft layer is supported               # told where `when` does not hold

Numbers are expressions over fields and dims: of the decode deployment, `prefill_tokens` of the prefill one. `room` gives values
to fields and dims that both calls share; it also knows `positions`, the most that a prompt needs with its new tokens, and
`requests`, those of a decode call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.base.errors import ConfigError, Diagnostic, did_you_mean
from runner.language.given import Given, describe
from runner.language.library import shipped_graphs
from runner.models.declared.expressions import integer_of, syntax_problem, value_of
from runner.models.protocols import PHASES, C, Configuration, Drafting, Serving, Vocabulary

_DRAFTS = ("prefill", "decode", "kept", "generations")
_OF_DRAFTS = (*_DRAFTS, "handed", "when", "because")
_NUMBERS = ("batch", "seq", "prefill_tokens", "vocabulary", "longest", "narrow")
_MAPPINGS = ("graphs", "deployments", "room", "drafts")
KEYS = ("graphs", "deployments", "logits", "end", "room", "drafts", *_NUMBERS)
_REQUIRED = ("batch", "prefill_tokens", "vocabulary")
NO_POSITIONS = 0


def _found(given: Given) -> str:
    """A graph by name, or the file beside the layer that has a name which is not installed."""
    beside = Path(given.mark.file).parent / f"{given.value}.yaml" if given.mark is not None else None
    return str(beside) if beside is not None and beside.is_file() and given.value not in shipped_graphs() else given.value


class ServingDeclaration:
    """What the section says; `problems` is everything that is wrong with it whatever the configuration."""

    def __init__(self, section: Given | None):
        self.section = section
        self.entries: Mapping[str, Given] = {}
        self.problems: list[Diagnostic] = []
        if section is None or section.value is None:
            self.section = None
        elif not isinstance(section.value, dict):
            self.problems.append(section.problem("C102", f"'serving' is {describe(section.value)}, expected a mapping"))
        else:
            self.entries = section.value
            self._check(section)

    def _check(self, section: Given) -> None:
        for key, given in self.entries.items():
            if key not in KEYS:
                hint = did_you_mean(key, KEYS) or f"it may have {', '.join(KEYS)}"
                self.problems.append(given.problem("C101", f"'serving': unknown key '{key}'", hint))
            elif key in _MAPPINGS and not isinstance(given.value, dict):
                self.problems.append(given.problem("C102", f"'{key}' is {describe(given.value)}, expected a mapping"))
            elif key in _NUMBERS and isinstance(given.value, dict | list):
                self.problems.append(given.problem("C102", f"'{key}' is {describe(given.value)}, expected an expression"))
            elif key in _NUMBERS and (problem := syntax_problem(given, f"'{key}'")):
                self.problems.append(problem)
        for key in ("graphs", "deployments"):
            for phase, given in self._mapping(key).items():
                if phase not in PHASES:
                    hint = did_you_mean(phase, PHASES) or f"calls are {' and '.join(PHASES)}"
                    self.problems.append(given.problem("C101", f"'{key}': unknown call '{phase}'", hint))
                elif not isinstance(given.value, str):
                    self.problems.append(given.problem("C102", f"'{phase}' is {describe(given.value)}, expected a name"))
        for name, given in self._mapping("room").items():
            if problem := syntax_problem(given, f"'{name}'"):
                self.problems.append(problem)
        self.problems += self._wrong_drafts(self._mapping("drafts"))
        missing = [key for key in _REQUIRED if key not in self.entries]
        if missing:
            self.problems.append(section.problem("C105", f"'serving' has no {', '.join(map(repr, missing))}"))

    def _wrong_drafts(self, drafts: Mapping[str, Given]) -> list[Diagnostic]:
        found: list[Diagnostic] = []
        for key, given in drafts.items():
            names = given.value.values() if key == "handed" and isinstance(given.value, dict) else [given]
            if key not in _OF_DRAFTS:
                hint = did_you_mean(key, _OF_DRAFTS) or f"it may have {', '.join(_OF_DRAFTS)}"
                found.append(given.problem("C101", f"'drafts': unknown key '{key}'", hint))
            elif key == "when":
                found += [problem] if (problem := syntax_problem(given, "'when' of 'drafts'")) else []
            elif not all(isinstance(name.value, str) for name in names) or (key == "handed") != isinstance(given.value, dict):
                wanted = "names of tensors by input" if key == "handed" else "a text" if key == "because" else "a name"
                found.append(given.problem("C102", f"'{key}' of 'drafts' is {describe(given.plain)}, expected {wanted}"))
        missing = [key for key in _DRAFTS if drafts and key not in drafts]
        if missing:
            found.append(self.entries["drafts"].problem("C105", f"'drafts' has no {', '.join(map(repr, missing))}"))
        return found

    def _drafting(self, values: Mapping[str, Any], seq: int) -> tuple[Drafting | None, str]:
        """How tokens are drafted, else None and why not; no reason where a decode call has no room for drafts."""
        drafts = self._mapping("drafts")
        if not drafts or seq < 2:
            return None, ""
        if "when" in drafts and not value_of(drafts["when"], values, "'when' of 'drafts'"):
            because = drafts["because"].value if "because" in drafts else f"'{drafts['when'].value}' does not hold"
            return None, because
        graphs = {phase: drafts[phase].value for phase in PHASES}
        handed = drafts["handed"].plain if "handed" in drafts else {}
        return Drafting(graphs, handed, drafts["kept"].value, drafts["generations"].value), ""

    def _mapping(self, key: str) -> Mapping[str, Given]:
        given = self.entries.get(key)
        return given.value if given is not None and isinstance(given.value, dict) else {}

    def _required(self, config: Any) -> Mapping[str, Given]:
        """The entries; raises ConfigError where no layer declares any."""
        if self.section is None:
            name = getattr(config, "name", "")
            message = f"configuration '{name}' does not say how it serves" if name else "nothing says how requests are served"
            raise ConfigError(message, hint="a layer declares it in a section 'serving' (docs/add-a-model.md)")
        return self.entries

    # --- what sessions ask ---

    def serving(self, config: C, decode: str | None) -> Serving[C]:
        """See `ModelFamily.serving`."""
        entries = self._required(config)
        config = self._with_room(config, NO_POSITIONS, decode)
        configs = {phase: config.with_(deploy=deploy) for phase, deploy in self._deployments(config, decode).items()}
        graphs = {phase: _found(given) for phase, given in self._mapping("graphs").items()}
        batch = integer_of(entries["batch"], configs["decode"].values, "'batch'", 1)
        seq = integer_of(entries["seq"], configs["decode"].values, "'seq'", 1) if "seq" in entries else 1
        tokens = integer_of(entries["prefill_tokens"], configs["prefill"].values, "'prefill_tokens'", 1)
        logits = str(entries["logits"].value) if "logits" in entries else "logits"
        drafting, undrafted = self._drafting(configs["decode"].values, seq)
        return Serving(config, graphs, configs, logits, batch, seq, tokens, drafting, undrafted)

    def fitting(self, config: C, lengths: Sequence[int], max_new_tokens: int, decode: str | None) -> C:
        """See `ModelFamily.fitting`."""
        entries = self._required(config)
        needed = [length + max_new_tokens for length in lengths]
        if "longest" in entries:
            most = integer_of(entries["longest"], config.values, "'longest'")
            for prompt, positions in enumerate(needed):
                if positions > most:
                    message = f"prompt {prompt} needs {positions:,} positions with its new tokens, the model has {most:,}"
                    raise ConfigError(message)
        return self._with_room(config, max(needed, default=NO_POSITIONS), decode)

    def vocabulary(self, config: Configuration) -> Vocabulary:
        """See `ModelFamily.vocabulary`."""
        entries = self._required(config)
        size = integer_of(entries["vocabulary"], config.values, "'vocabulary'", 1)
        return Vocabulary(size, self._end(config))

    def is_narrow(self, values: Mapping[str, Any]) -> bool:
        """See `ModelFamily.is_narrow`."""
        return "narrow" in self.entries and bool(value_of(self.entries["narrow"], values, "'narrow'"))

    def _end(self, config: Configuration) -> tuple[int, ...]:
        if "end" not in self.entries:
            return ()
        given = self.entries["end"]
        value = given.plain
        if isinstance(value, str):
            if value not in config.fields:
                raise ConfigError(
                    given.problem("C106", f"'end': no field is called '{value}'", did_you_mean(value, config.fields))
                )
            value = config.fields[value]
        tokens = [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
        if any(not isinstance(token, int) or isinstance(token, bool) for token in tokens):
            raise ConfigError(given.problem("C102", f"'end' is {describe(value)}, expected token ids"))
        return tuple(tokens)

    def _deployments(self, config: Any, decode: str | None) -> dict[str, str | None]:
        """The deployment of each phase; that of a configuration without any is None."""
        names = getattr(config, "deployments", PHASES)
        found: dict[str, str | None] = {phase: phase if phase in names else None for phase in PHASES}
        found |= {phase: given.value for phase, given in self._mapping("deployments").items()}
        return found | ({"decode": decode} if decode is not None else {})

    def _with_room(self, config: C, positions: int, decode: str | None) -> C:
        room = self._mapping("room")
        if not room:
            return config
        phases = {phase: config.with_(deploy=deploy).values for phase, deploy in self._deployments(config, decode).items()}
        requests = integer_of(self.entries["batch"], phases["decode"], "'batch'", 1)
        known = {**phases["decode"], "positions": positions, "requests": requests}
        wanted = {name: value_of(given, known, f"'{name}' of 'room'") for name, given in room.items()}
        sets = [f"{name}={value}" for name, value in wanted.items() if any(has.get(name) != value for has in phases.values())]
        return config.with_(sets=sets) if sets else config
