"""The language server: requests of an editor are answered by the modules beside this one, findings are sent when they are there.

An edit starts, a moment later, one pass over all open graphs on a thread of its own, in the order in which they were edited last;
the next edit ends it. Requests run on a few others, so that the server hears what comes meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from lsprotocol import types
from pygls.lsp.server import LanguageServer
from pygls.uris import to_fs_path

from runner.base.errors import Diagnostic, RinggraphError
from runner.base.stopping import StoppedError, stop_if_needless, stopped_by
from runner.editor import protocol
from runner.editor.completion import complete
from runner.editor.fixes import fixes
from runner.editor.hover import hover
from runner.editor.navigation import Edit, definition, references, renamable, rename
from runner.editor.outline import hints, outline
from runner.editor.reading.text import Place, Text
from runner.editor.settings import SECTION, read_settings
from runner.editor.workspace import Workspace

DEBOUNCE_S = 0.03
"""Time without an edit before anything is worked out."""
_Result = TypeVar("_Result")


class Server(LanguageServer):
    """One session with one editor."""

    def __init__(self, version: str):
        super().__init__("ringgraph", version, types.TextDocumentSyncKind.Full)
        self.graphs = Workspace()
        self.uris: dict[str, str] = {}
        self.versions: dict[str, int | None] = {}
        self.edited: list[str] = []
        self.edits = 0
        self.by_root: dict[str, list[Diagnostic]] = {}
        self.seen: dict[str, dict[str, Text]] = {}
        self.shown: dict[str, list[Diagnostic]] = {}
        self.waiting: asyncio.TimerHandle | None = None
        self.analysis = ThreadPoolExecutor(1, "analysis")
        self.requests = ThreadPoolExecutor(3, "requests")

    # --- documents ---

    def path(self, uri: str) -> str | None:
        """The file of a URI; None for what is no file."""
        return to_fs_path(uri) or None if uri.startswith("file:") else None

    def put(self, uri: str, version: int | None, text: str) -> None:
        path = self.path(uri)
        if path is None:
            return
        real = self.graphs.put(path, text)
        self.uris[real], self.versions[real] = uri, version
        self.edited = [real, *(each for each in self.edited if each != real)]
        self.restart()

    def drop(self, uri: str) -> None:
        path = self.path(uri)
        if path is None:
            return
        real = os.path.realpath(path)
        self.graphs.close(path)
        self.edited = [each for each in self.edited if each != real]
        self.publish_root(real, [])
        self.by_root.pop(real, None)
        self.seen.pop(real, None)
        self.uris.pop(real, None)
        self.versions.pop(real, None)
        self.restart()

    def set(self, given: Any) -> None:
        """Takes settings; what is wrong with them is told in the editor's log."""
        self.graphs.settings, problems = read_settings(protocol.options(given))
        self.graphs.settled()
        for problem in problems:
            self.log(problem, types.MessageType.Warning)
        self.restart()

    def log(self, message: str, kind: types.MessageType = types.MessageType.Error) -> None:
        self.window_log_message(types.LogMessageParams(kind, message))

    # --- findings ---

    def restart(self) -> None:
        """Something changed: what is being worked out is given up, and worked out anew in a moment."""
        self.edits += 1
        if self.waiting is not None:
            self.waiting.cancel()
        loop = asyncio.get_running_loop()
        self.waiting = loop.call_later(DEBOUNCE_S, lambda: self.analysis.submit(self._analyse, self.edits, loop))

    def _analyse(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        """One pass, on the thread of its own."""
        needless = lambda: self.edits != number  # noqa: E731
        try:
            with stopped_by(needless):
                self._pass(number, loop)
        except StoppedError:
            return
        except Exception:  # a fault of ours: the editor's log has it, and the session goes on
            message = traceback.format_exc()
            loop.call_soon_threadsafe(self.log, message)

    def _pass(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        graphs = self.graphs
        for real in list(self.edited):
            stop_if_needless()
            text, kind = graphs.open.get(real), graphs.kinds.get(real)
            if text is None:
                continue
            found = graphs.findings(text.file) if kind == "graph" else []
            found = graphs.layer_findings(text.file) if kind == "layer" else found
            loop.call_soon_threadsafe(self._publish, number, real, found)
        first = next((real for real in self.edited if graphs.is_graph(real) and real in graphs.open), None)
        if first is not None:
            graphs.program(graphs.open[first].file)  # the next hover wants it

    def _publish(self, number: int, real: str, found: list[Diagnostic]) -> None:
        if number == self.edits and real in self.graphs.open:
            self.publish_root(real, found)

    def publish_root(self, root: str, found: list[Diagnostic]) -> None:
        """Sends the findings of one open graph, together with those that others have in the same files."""
        before = {os.path.realpath(each.mark.file) for each in self.by_root.get(root, []) if each.mark}
        self.by_root[root] = found
        self.seen[root] = self.graphs.open
        now = {os.path.realpath(each.mark.file) for each in found if each.mark}
        for real in {root} | before | now:
            self.shown[real] = self._findings_in(real)
            text = self.graphs.text(real)
            made = [self._diagnostic(each, text) for each in self.shown[real]] if text is not None else []
            sent = types.PublishDiagnosticsParams(self.uri(real), made, self.versions.get(real))
            self.text_document_publish_diagnostics(sent)

    def _findings_in(self, real: str) -> list[Diagnostic]:
        """What is found in a file, each finding once: in the words of its own look, where that has it.

        What another look found in an older text comes again when that graph is looked at anew.
        """
        text = self.graphs.open.get(real)
        others = [found for root, found in self.by_root.items() if root != real and self.seen[root].get(real) == text]
        found: dict[object, Diagnostic] = {}
        for each in (each for findings in (self.by_root.get(real, []), *others) for each in findings):
            if each.mark is not None and os.path.realpath(each.mark.file) == real:
                found.setdefault(each.identity, each)
        return list(found.values())

    def _diagnostic(self, finding: Diagnostic, text: Text) -> types.Diagnostic:
        related = []
        for mark in finding.related:
            other = self.graphs.text(mark.file)
            if other is not None:
                related.append((self.uri(mark.file), protocol.whole_line(other, mark)))
        return protocol.diagnostic(finding, text, related)

    # --- requests ---

    def uri(self, path: str) -> str:
        return protocol.uri_of(path, lambda given: self.uris.get(os.path.realpath(given)))

    def location(self, place: Place) -> types.Location | None:
        text = self.graphs.text(place.file)
        return None if text is None else types.Location(self.uri(place.file), protocol.range_of(text, place.start, place.end))

    def locations(self, places: list[Place]) -> list[types.Location]:
        return [found for place in places if (found := self.location(place)) is not None]

    async def answer(self, uri: str, work: Callable[[str, Text], _Result | None]) -> _Result | None:
        """What `work` makes of an open file, on a thread of requests; None where it is not open, or a fault is logged.

        Raises RinggraphError, for those who say why they do nothing.
        """
        path = self.path(uri)
        text = self.graphs.open.get(os.path.realpath(path)) if path is not None else None
        if path is None or text is None:
            return None
        number = self.edits

        def done() -> _Result | None:
            with stopped_by(lambda: self.edits != number):
                return work(text.file, text)

        try:
            return await asyncio.get_running_loop().run_in_executor(self.requests, done)
        except (RinggraphError, asyncio.CancelledError):
            raise
        except StoppedError:  # it was about a text that is gone
            return None
        except Exception:
            self.log(traceback.format_exc())
            return None

    def edit_of(self, edits: dict[str, list[Edit]]) -> types.WorkspaceEdit:
        changes = {}
        for file, made in edits.items():
            text = self.graphs.text(file)
            if text is not None:
                changes[self.uri(file)] = protocol.text_edits(made, text)
        return types.WorkspaceEdit(changes=changes)

    def actions(self, params: types.CodeActionParams, path: str, text: Text) -> Iterator[types.CodeAction]:
        """The fixes of what is shown in a range."""
        for finding in self.shown.get(os.path.realpath(path), []):
            made = self._diagnostic(finding, text)
            if made.range.start.line > params.range.end.line or made.range.end.line < params.range.start.line:
                continue
            found = list(fixes(self.graphs, finding))
            for fix in found:
                edit = self.edit_of({os.path.realpath(fix.file): [fix.edit]})
                kind = types.CodeActionKind.QuickFix
                yield types.CodeAction(fix.title, kind, [made], is_preferred=len(found) == 1, edit=edit)


def serve(version: str, source: BinaryIO, sink: BinaryIO) -> None:
    """Serves one editor, which writes to `source` and reads from `sink`, until it ends the session."""
    server = make_server(version)
    try:
        server.start_io(source, sink)
    finally:
        server.edits += 1
        for pool in (server.analysis, server.requests):
            pool.shutdown(wait=False, cancel_futures=True)


def make_server(version: str) -> Server:
    """A server with all its features."""
    server = Server(version)
    _lifecycle(server)
    _documents(server)
    _questions(server)
    _navigation(server)
    _lists(server)
    return server


def _lifecycle(server: Server) -> None:
    @server.feature(types.INITIALIZE)
    def initialize(params: types.InitializeParams) -> None:
        folders = [each.uri for each in params.workspace_folders or []] or [params.root_uri or ""]
        paths = [Path(path) for uri in folders if (path := server.path(uri)) is not None]
        server.graphs.folders = paths
        if paths:
            server.graphs.folder = Path(os.path.realpath(paths[0]))
        if params.initialization_options is not None:
            server.graphs.settings, problems = read_settings(protocol.options(params.initialization_options))
            for problem in problems:
                server.log(problem, types.MessageType.Warning)

    @server.feature(types.INITIALIZED)
    async def initialized(params: types.InitializedParams) -> None:
        server.graphs.encoding = str(getattr(server.workspace.position_encoding, "value", "utf-16"))
        await _pull(server)

    @server.feature(types.WORKSPACE_DID_CHANGE_CONFIGURATION)
    async def configured(params: types.DidChangeConfigurationParams) -> None:
        if isinstance(params.settings, dict) and params.settings.get(SECTION) is not None:
            server.set(params.settings)
        else:
            await _pull(server)


async def _pull(server: Server) -> None:
    """Asks the editor for its settings, if it can be asked."""
    able = server.client_capabilities.workspace
    if able is None or not able.configuration:
        return
    try:
        given = await server.workspace_configuration_async(types.ConfigurationParams([types.ConfigurationItem(section=SECTION)]))
    except Exception as error:  # whatever the other side answers
        server.log(f"the editor's settings could not be read: {error}", types.MessageType.Warning)
        return
    if given and given[0]:
        server.set(given[0])


def _documents(server: Server) -> None:
    @server.feature(types.TEXT_DOCUMENT_DID_OPEN)
    async def opened(params: types.DidOpenTextDocumentParams) -> None:
        document = params.text_document
        server.put(document.uri, document.version, document.text)

    @server.feature(types.TEXT_DOCUMENT_DID_CHANGE)
    async def changed(params: types.DidChangeTextDocumentParams) -> None:
        document = params.text_document
        server.put(document.uri, document.version, server.workspace.get_text_document(document.uri).source)

    @server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    async def closed(params: types.DidCloseTextDocumentParams) -> None:
        server.drop(params.text_document.uri)

    @server.feature(types.TEXT_DOCUMENT_DID_SAVE)
    async def saved(params: types.DidSaveTextDocumentParams) -> None:
        server.restart()

    @server.feature(types.WORKSPACE_DID_CHANGE_WATCHED_FILES)
    async def others(params: types.DidChangeWatchedFilesParams) -> None:
        server.graphs.settled()
        server.restart()


def _questions(server: Server) -> None:
    @server.feature(types.TEXT_DOCUMENT_HOVER)
    async def hovered(params: types.HoverParams) -> types.Hover | None:
        def work(path: str, text: Text) -> types.Hover | None:
            found = hover(server.graphs, path, text.offset_at(params.position.line, params.position.character))
            if found is None:
                return None
            content = types.MarkupContent(types.MarkupKind.Markdown, found[0])
            return types.Hover(content, protocol.range_of(text, found[1].start, found[1].end))

        return await server.answer(params.text_document.uri, work)

    triggers = types.CompletionOptions(trigger_characters=[":", " ", "[", "{", ",", '"', "-"])

    @server.feature(types.TEXT_DOCUMENT_COMPLETION, triggers)
    async def completed(params: types.CompletionParams) -> types.CompletionList | None:
        def work(path: str, text: Text) -> types.CompletionList:
            offers, where = complete(server.graphs, path, text.offset_at(params.position.line, params.position.character))
            items = [protocol.completion(offer, text, where, rank) for rank, offer in enumerate(offers)]
            return types.CompletionList(False, items)

        return await server.answer(params.text_document.uri, work)

    @server.feature(types.TEXT_DOCUMENT_CODE_ACTION, types.CodeActionOptions([types.CodeActionKind.QuickFix]))
    async def acted(params: types.CodeActionParams) -> list[types.CodeAction] | None:
        return await server.answer(params.text_document.uri, lambda path, text: list(server.actions(params, path, text)))


def _navigation(server: Server) -> None:
    def at(place: types.Position, text: Text) -> int:
        return text.offset_at(place.line, place.character)

    @server.feature(types.TEXT_DOCUMENT_DEFINITION)
    async def defined(params: types.DefinitionParams) -> list[types.Location] | None:
        def work(path: str, text: Text) -> list[types.Location]:
            return server.locations(definition(server.graphs, path, at(params.position, text)))

        return await server.answer(params.text_document.uri, work)

    @server.feature(types.TEXT_DOCUMENT_REFERENCES)
    async def referred(params: types.ReferenceParams) -> list[types.Location] | None:
        def work(path: str, text: Text) -> list[types.Location]:
            found = references(server.graphs, path, at(params.position, text), params.context.include_declaration)
            return server.locations(found)

        return await server.answer(params.text_document.uri, work)

    @server.feature(types.TEXT_DOCUMENT_PREPARE_RENAME)
    async def prepared(params: types.PrepareRenameParams) -> types.Range | None:
        def work(path: str, text: Text) -> types.Range:
            found = renamable(server.graphs, path, at(params.position, text))
            return protocol.range_of(text, found.start, found.end)

        return await _refusing(server.answer(params.text_document.uri, work))

    @server.feature(types.TEXT_DOCUMENT_RENAME, types.RenameOptions(prepare_provider=True))
    async def renamed(params: types.RenameParams) -> types.WorkspaceEdit | None:
        def work(path: str, text: Text) -> types.WorkspaceEdit:
            return server.edit_of(rename(server.graphs, path, at(params.position, text), params.new_name))

        return await _refusing(server.answer(params.text_document.uri, work))


async def _refusing(answer: Any) -> Any:
    """An answer, or the reason why there is none as the protocol tells it to users."""
    from pygls.exceptions import JsonRpcException

    try:
        return await answer
    except RinggraphError as error:
        raise JsonRpcException(error.message, types.LSPErrorCodes.RequestFailed) from None


def _lists(server: Server) -> None:
    @server.feature(types.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
    async def outlined(params: types.DocumentSymbolParams) -> list[types.DocumentSymbol] | None:
        def work(path: str, text: Text) -> list[types.DocumentSymbol]:
            return [protocol.symbol(part, text) for part in outline(server.graphs, path)]

        return await server.answer(params.text_document.uri, work)

    @server.feature(types.TEXT_DOCUMENT_INLAY_HINT)
    async def hinted(params: types.InlayHintParams) -> list[types.InlayHint] | None:
        def work(path: str, text: Text) -> list[types.InlayHint]:
            first, last = params.range.start, params.range.end
            ends = text.offset_at(first.line, first.character), text.offset_at(last.line, last.character)
            return [protocol.inlay(hint, text) for hint in hints(server.graphs, path, *ends)]

        return await server.answer(params.text_document.uri, work)
