"""What the editor's rooms say, in the types of the Language Server Protocol."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from lsprotocol import types
from pygls.uris import from_fs_path

from runner.base.errors import Diagnostic, Mark
from runner.editor.completion import Offer
from runner.editor.navigation import Edit
from runner.editor.outline import Hint, Part
from runner.editor.reading.text import Place, Text

SOURCE = "ringgraph"
_KINDS = types.CompletionItemKind
COMPLETIONS = {
    "op": _KINDS.Function,
    "tensor": _KINDS.Variable,
    "graph": _KINDS.Module,
    "key": _KINDS.Property,
    "keyword": _KINDS.Keyword,
    "operand": _KINDS.Field,
    "member": _KINDS.Field,
    "param": _KINDS.TypeParameter,
    "variable": _KINDS.Variable,
    "field": _KINDS.Constant,
    "dtype": _KINDS.Struct,
    "type": _KINDS.Struct,
    "id": _KINDS.Reference,
    "value": _KINDS.EnumMember,
    "function": _KINDS.Function,
}
_SYMBOLS = types.SymbolKind
SYMBOLS = {
    "section": _SYMBOLS.Namespace,
    "tensor": _SYMBOLS.Variable,
    "op": _SYMBOLS.Function,
    "alloc": _SYMBOLS.Array,
    "view": _SYMBOLS.Variable,
    "scope": _SYMBOLS.Package,
    "for": _SYMBOLS.Struct,
    "if": _SYMBOLS.Struct,
    "switch": _SYMBOLS.Struct,
    "use": _SYMBOLS.Module,
}
_TOKEN = re.compile(r"[^\s,{}\[\]\"'#:]+|\S")


def uri_of(path: str, spelled: Callable[[str], str | None]) -> str:
    """A file's URI, as the client spelled it where it is open."""
    return spelled(path) or from_fs_path(path) or path


def range_of(text: Text, start: int, end: int) -> types.Range:
    return types.Range(types.Position(*text.position(start)), types.Position(*text.position(end)))


def diagnostic(finding: Diagnostic, text: Text, related: Sequence[tuple[str, types.Range]]) -> types.Diagnostic:
    """A finding at its place, up to the end of the word that stands there; `related` are URIs and ranges."""
    start = text.offset(finding.mark) if finding.mark is not None else 0
    word = _TOKEN.match(text.value, start)
    message = f"{finding.message}\nhint: {finding.hint}" if finding.hint else finding.message
    return types.Diagnostic(
        range_of(text, start, word.end() if word is not None else start),
        message,
        types.DiagnosticSeverity.Error if finding.severity == "error" else types.DiagnosticSeverity.Warning,
        finding.code,
        source=SOURCE,
        related_information=[
            types.DiagnosticRelatedInformation(types.Location(uri, where), "this belongs to it") for uri, where in related
        ]
        or None,
    )


def whole_line(text: Text, mark: Mark) -> types.Range:
    start = text.offset(mark)
    return range_of(text, start, text.offset(Mark(mark.file, mark.line, 1 << 20)))


def completion(offer: Offer, text: Text, where: Place, rank: int) -> types.CompletionItem:
    edit = types.TextEdit(range_of(text, where.start, where.end), offer.text)
    doc = types.MarkupContent(types.MarkupKind.Markdown, offer.doc) if offer.doc else None
    return types.CompletionItem(
        offer.label or offer.text,
        kind=COMPLETIONS.get(offer.kind, _KINDS.Text),
        detail=offer.detail or None,
        documentation=doc,
        sort_text=f"{rank:05}",
        filter_text=offer.label or offer.text,
        text_edit=edit,
    )


def symbol(part: Part, text: Text) -> types.DocumentSymbol:
    whole = types.Range(types.Position(*text.position(part.place.start)), types.Position(*text.position(part.place.end)))
    return types.DocumentSymbol(
        part.name,
        SYMBOLS.get(part.kind, _SYMBOLS.Object),
        whole,
        range_of(text, part.name_at.start, part.name_at.end),
        part.detail or None,
        children=[symbol(inner, text) for inner in part.inside],
    )


def inlay(hint: Hint, text: Text) -> types.InlayHint:
    place = types.Position(*text.position(hint.offset))
    return types.InlayHint(place, hint.text, types.InlayHintKind.Type, padding_left=True)


def text_edits(edits: Sequence[Edit], text: Text) -> list[types.TextEdit]:
    return [types.TextEdit(range_of(text, edit.start, edit.end), edit.text) for edit in edits]


def options(given: Any) -> Any:
    """Settings in what a client sends, under their section's name or not."""
    return given.get(SOURCE, given) if isinstance(given, dict) else given
