"""What requests need of a DeepSeek-V4 model: graphs and deployments of both phases, room for prompts, the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

from runner.base.errors import ConfigError
from runner.models.protocols import C, Configuration, Drafting, Serving, Settings, Values, Vocabulary

GRAPHS = {"prefill": "prefill_fwd", "decode": "decode_fwd"}
LOGITS = "logits"
DEPLOYMENTS = {"prefill": "prefill", "decode": "decode"}
"""The usual deployment of each phase."""

STEP_TOKENS = 2
"""Tokens of a request that a decode call takes at most: the newest, and one that was drafted."""

DRAFTING = Drafting(
    graphs={"prefill": "prefill_mtp", "decode": "decode_fwd_mtp"},
    handed={"previous": "hidden_next"},
    kept="kept",
    generations="draft_generations",
)
"""The draft layer reads the streams that the last layer leaves."""

NARROW_MODEL = 1024
"""Hidden sizes below this are narrow."""


def phase_of(values: Values) -> str:
    """The phase that a deployment is for: prefill reads a chunk of one prompt, decode a step of each of many requests."""
    return "prefill" if values["B"] == 1 and values["S"] > STEP_TOKENS else "decode"


def serving(config: C, decode: str | None = None) -> Serving[C]:
    """See `ModelFamily.serving`: one store of requests serves both phases."""
    deployments = DEPLOYMENTS | ({"decode": decode} if decode is not None else {})
    configs = {phase: config.with_(deploy=deploy) for phase, deploy in deployments.items()}
    room = [f"REQUESTS={max(made['REQUESTS'] for made in configs.values())}"]
    configs = {phase: made.with_(sets=room) for phase, made in configs.items()}
    if configs["prefill"]["B"] != 1:
        raise ConfigError(
            f"prefill takes one request at a time, got batch {configs['prefill']['B']}", hint="leave prefill.batch at 1"
        )
    batch, seq = configs["decode"]["B"], configs["decode"]["S"]
    undrafted = "" if seq < STEP_TOKENS else _undrafted(config.values)
    drafting = DRAFTING if seq >= STEP_TOKENS and not undrafted else None
    return Serving(config.with_(sets=room), GRAPHS, configs, LOGITS, batch, seq, configs["prefill"]["S"], drafting, undrafted)


def _undrafted(values: Values) -> str:
    """Why a model drafts no tokens; empty if it does."""
    layers, ratios = values["num_nextn_predict_layers"], values["compress_ratios"][values["num_hidden_layers"] :]
    if layers != 1:
        having = "no draft layer" if not layers else f"{layers} draft layers, of which drafting in a chain is not supported"
        return f"the model has {having} ('num_nextn_predict_layers' is {layers})"
    if any(ratios[:1]):
        return f"the draft layer's attention is compressed ('compress_ratios[{values['num_hidden_layers']}]' is {ratios[0]})"
    return ""


def fitting(config: C, lengths: Sequence[int], max_new_tokens: int, decode: str | None = None) -> C:
    """See `ModelFamily.fitting`."""
    longest = max(range(len(lengths)), key=lambda i: lengths[i])
    needed = lengths[longest] + max_new_tokens
    most = config["max_position_embeddings"]
    if needed > most:
        raise ConfigError(f"prompt {longest} needs {needed:,} positions with its new tokens, the model has {most:,}")
    sets = []
    if needed > config["max_context"]:
        page = config["PAGE"]
        sets.append(f"max_context={min(-(-needed // page) * page, most)}")
    batch = config.with_(deploy=decode or DEPLOYMENTS["decode"])["B"]
    if batch > config["REQUESTS"]:
        sets.append(f"REQUESTS={batch}")
    return config.with_(sets=sets) if sets else config


def vocabulary(config: Configuration) -> Vocabulary:
    """All token ids, and those that end a sequence: `eos_token_id` is one, a list or null."""
    end = config.fields["eos_token_id"]
    return Vocabulary(config["vocab_size"], tuple(end) if isinstance(end, list | tuple) else () if end is None else (end,))


def is_narrow(settings: Settings) -> bool:
    """See `ModelFamily.is_narrow`."""
    return settings.values["hidden_size"] < NARROW_MODEL
