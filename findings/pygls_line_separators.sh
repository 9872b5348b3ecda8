#!/usr/bin/env bash
# pygls 2.1.1 (lsprotocol 2025.0.0), a library for language servers: incremental synchronisation of documents that hold a form
# feed, a vertical tab, U+0085, U+2028 or one of the other characters at which Python's `str.splitlines` ends a line.
#
# A good guess: after `textDocument/didChange` with a range, the server's text is the editor's. The protocol ends lines at \n,
# \r\n and \r alone ("Text Documents" of its specification), and so editors count.
# What happens: pygls counts lines by `splitlines`. Behind such a character every line has a number too high, so a change falls
# into the line before: here an editor replaces the last character of the second line, and the server's copy loses a line break
# instead. Nothing is raised or logged, the copies stay apart until the file is opened anew, and positions that the server
# sends (findings, renames, edits) are off by a line. The default kind of synchronisation is the incremental one.
# Who is hurt: servers on pygls for languages whose files have such characters in use: form feeds as page breaks in Python and
# C sources, U+2028 in texts that were pasted from documents, in comments or strings of YAML. An edit that the server computes
# from its copy is applied to other text than it saw.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check pygls==2.1.1 lsprotocol==2025.0.0 2>/dev/null
"$work/venv/bin/python" - <<'P'
import inspect

from lsprotocol import types
from pygls.lsp.server import LanguageServer
from pygls.workspace import Workspace

INCREMENTAL = types.TextDocumentSyncKind.Incremental
assert inspect.signature(LanguageServer.__init__).parameters["text_document_sync_kind"].default == INCREMENTAL
URI = "file:///notes.yaml"


def after_an_edit(text, line, character, new):
    """The server's copy after an editor has replaced one character, by the calls that its handlers make."""
    workspace = Workspace(None, INCREMENTAL)
    workspace.put_text_document(types.TextDocumentItem(URI, "yaml", 1, text))
    place = types.Range(types.Position(line, character), types.Position(line, character + 1))
    change = types.TextDocumentContentChangePartial(range=place, text=new)
    workspace.update_text_document(types.VersionedTextDocumentIdentifier(2, URI), change)
    return workspace.get_text_document(URI).source


assert after_an_edit("doc: one\nx: 1\n", 1, 3, "2") == "doc: one\nx: 2\n"  # as the editor has it
for mark in ("\f", "\v", "\x85", "\u2028"):
    text = f"doc: one{mark}two\nx: 1\n"
    found = after_an_edit(text, 1, 3, "2")
    print(f"{text!r}, line 1 character 3 becomes '2': {found!r}")
    assert found == f"doc: one{mark}two2x: 1\n", found
P
echo "pygls 2.1.1: an incremental change behind such a character falls into another line"
