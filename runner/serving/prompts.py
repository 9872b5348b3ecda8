"""Prompts as users give them: token ids on the command line, a JSON file, or text with the checkpoint's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runner.base.errors import RinggraphError
from runner.base.reading import read_json

Prompt = tuple[int, ...]
"""Token ids."""


def parse_ids(text: str) -> Prompt:
    """`1,2,3` as a prompt; raises RinggraphError."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise RinggraphError(f"--prompt-ids {text}: expected token ids with commas between, as in 1,2,3") from None


def read_prompts(path: Path, checkpoint: Path | None) -> list[Prompt]:
    """A JSON list of lists of token ids, or of strings; raises RinggraphError."""
    given = read_json(path)
    if not isinstance(given, list):
        raise RinggraphError(f"{path}: {_kind(given)}, expected a list of prompts")
    if given and all(isinstance(prompt, str) for prompt in given):
        return encode_texts(given, checkpoint)
    for index, prompt in enumerate(given):
        if not isinstance(prompt, list) or not all(isinstance(token, int) and not isinstance(token, bool) for token in prompt):
            got = "a list with other items than token ids" if isinstance(prompt, list) else _kind(prompt)
            raise RinggraphError(f"{path}: prompt {index} is {got}, expected a list of token ids (or all prompts as strings)")
    return [tuple(prompt) for prompt in given]


def _kind(value: Any) -> str:
    names = {dict: "an object", str: "a string", bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "null")


def check_prompts(prompts: Sequence[Prompt], num_tokens: int) -> None:
    """Raises RinggraphError that names every empty prompt and every token outside of the vocabulary."""
    problems = [] if prompts else ["there is no prompt"]
    for index, prompt in enumerate(prompts):
        if not prompt:
            problems.append(f"prompt {index} is empty")
        wrong = [(at, token) for at, token in enumerate(prompt) if not 0 <= token < num_tokens]
        if wrong:
            at, token = wrong[0]
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            problems.append(f"prompt {index}: token {token} at {at} is outside of the vocabulary of {num_tokens}{more}")
    if problems:
        raise RinggraphError("\n".join(problems))


def tokenizer(checkpoint: Path | None) -> Any:
    """The checkpoint's `tokenizer.json`; raises RinggraphError where it or the `tokenizers` package is missing."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise RinggraphError("prompts of text need the package 'tokenizers'", hint="pip install 'ringgraph[text]'") from None
    if checkpoint is None:
        hint = "give token ids with --prompt-ids or --prompts"
        raise RinggraphError("prompts of text need a checkpoint with its tokenizer", hint=hint)
    path = checkpoint / "tokenizer.json"
    if not path.is_file():
        raise RinggraphError(f"'{checkpoint}' has no tokenizer.json", hint="give token ids with --prompt-ids or --prompts")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise RinggraphError(f"{path}: not a tokenizer: {error}") from error


def decode_tokens(sequences: Sequence[Sequence[int]], checkpoint: Path | None) -> list[str] | None:
    """Token ids as texts; None where the checkpoint has no tokenizer, or the `tokenizers` package is missing."""
    if checkpoint is None or not (checkpoint / "tokenizer.json").is_file() or find_spec("tokenizers") is None:
        return None
    decoder = tokenizer(checkpoint)
    return [decoder.decode(list(tokens)) for tokens in sequences]


def encode_texts(texts: Sequence[str], checkpoint: Path | None) -> list[Prompt]:
    """Texts as token ids; raises RinggraphError."""
    encoder = tokenizer(checkpoint)
    return [tuple(encoder.encode(text).ids) for text in texts]
