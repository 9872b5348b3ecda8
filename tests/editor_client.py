"""An editor for tests: pygls' client, which starts `ringgraph lsp` and talks with it over its standard streams."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lsprotocol import types
from places import ROOT
from pygls.lsp.client import LanguageClient
from pygls.uris import from_fs_path

RUN = "import sys; from runner.cli.main import main; main(['lsp'])"
CAPABILITIES = types.ClientCapabilities(
    workspace=types.WorkspaceClientCapabilities(configuration=False),
    text_document=types.TextDocumentClientCapabilities(
        document_symbol=types.DocumentSymbolClientCapabilities(hierarchical_document_symbol_support=True)
    ),
)


class Editor:
    """One session: requests wait for their answers; `times` are seconds by method, `faults` what the server logged as errors."""

    def __init__(self, folder: Path, settings: dict[str, Any] | None = None, broken_torch: Path | None = None):
        self.loop = asyncio.new_event_loop()
        self.client = LanguageClient("test", "1")
        self.found: dict[str, types.PublishDiagnosticsParams] = {}
        self.faults: list[str] = []
        self.said = ""
        self.times: dict[str, list[float]] = {}
        self.versions: dict[str, int] = {}
        self.changed: dict[str, float] = {}
        self._listen()
        path = os.pathsep.join(str(each) for each in (broken_torch, ROOT) if each is not None)
        options = {"cwd": str(ROOT), "env": {**os.environ, "PYTHONPATH": path}}
        self.loop.run_until_complete(self.client.start_io(sys.executable, "-c", RUN, **options))
        uri = from_fs_path(str(folder)) or ""
        folders = [types.WorkspaceFolder(uri, folder.name)]
        given = types.InitializeParams(CAPABILITIES, root_uri=uri, workspace_folders=folders, initialization_options=settings)
        self.server = self.wait(self.client.initialize_async(given))
        self.client.initialized(types.InitializedParams())

    def _listen(self) -> None:
        @self.client.feature(types.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)
        def published(params: types.PublishDiagnosticsParams) -> None:
            self.found[params.uri] = params
            if params.version == self.versions.get(params.uri) and params.uri in self.changed:
                self.times.setdefault("diagnostics", []).append(time.perf_counter() - self.changed.pop(params.uri))

        @self.client.feature(types.WINDOW_LOG_MESSAGE)
        def logged(params: types.LogMessageParams) -> None:
            if params.type == types.MessageType.Error:
                self.faults.append(params.message)

    def wait(self, answer: Any, seconds: float = 120) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(answer, seconds))

    def until(self, holds: Callable[[], bool], seconds: float = 120) -> None:
        async def poll() -> None:
            while not holds():
                await asyncio.sleep(0.002)

        self.wait(poll(), seconds)

    # --- documents ---

    def open(self, path: Path, text: str | None = None) -> str:
        uri = from_fs_path(str(path)) or ""
        text = path.read_text(encoding="utf-8") if text is None else text
        self.versions[uri], self.changed[uri] = 1, time.perf_counter()
        document = types.TextDocumentItem(uri, "yaml", 1, text)
        self.client.text_document_did_open(types.DidOpenTextDocumentParams(document))
        return uri

    def change(self, uri: str, text: str) -> None:
        self.versions[uri] += 1
        self.changed[uri] = time.perf_counter()
        document = types.VersionedTextDocumentIdentifier(version=self.versions[uri], uri=uri)
        whole = [types.TextDocumentContentChangeWholeDocument(text)]
        self.client.text_document_did_change(types.DidChangeTextDocumentParams(document, whole))

    def close(self, uri: str) -> None:
        self.client.text_document_did_close(types.DidCloseTextDocumentParams(types.TextDocumentIdentifier(uri)))

    def findings(self, uri: str) -> list[types.Diagnostic]:
        """What the server found in the text that it was sent last."""
        self.until(lambda: uri in self.found and self.found[uri].version == self.versions[uri])
        return list(self.found[uri].diagnostics)

    # --- requests ---

    def ask(self, method: str, **params: Any) -> Any:
        """An answer, timed."""
        start = time.perf_counter()
        given = types.METHOD_TO_TYPES[method][2](**params)

        async def asked() -> Any:
            return await self.client.protocol.send_request_async(method, given)

        answer = self.wait(asked())
        self.times.setdefault(method.partition("/")[2], []).append(time.perf_counter() - start)
        return answer

    def at(self, method: str, uri: str, line: int, column: int, **more: Any) -> Any:
        where = {"text_document": types.TextDocumentIdentifier(uri), "position": types.Position(line, column)}
        return self.ask(method, **where, **more)

    def end(self) -> int:
        """Ends the session; the exit status of the server."""
        self.wait(self.client.shutdown_async(None))
        self.client.exit(None)
        self.wait(self.client.stop(), 30)
        process = self.client._server
        assert process is not None and process.stderr is not None
        self.said = self.wait(process.stderr.read()).decode()
        self.loop.close()
        return process.returncode if process.returncode is not None else -1


def position(text: str, offset: int) -> tuple[int, int]:
    """Line and column, in units of UTF-16, of an offset."""
    line = text.count("\n", 0, offset)
    before = text[text.rfind("\n", 0, offset) + 1 : offset]
    return line, len(before.encode("utf-16-le")) // 2
