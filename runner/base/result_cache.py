"""Results kept in the user's cache folder by a key that names all they follow from: safe to delete, bounded, never an error.

An entry is one file, written whole: the checksum of its text, a newline, the text. What cannot be read, is no file or is damaged
is not there; what cannot be written is not kept.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from runner.base.files import write_text

FOLDER = "RINGGRAPH_CACHE"
"""The environment variable that names another folder."""

MAX_BYTES = 64 * 2**20
_SUFFIX = ".result"


def cache_folder(env: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path | None:
    """Where a user's caches lie by the platform's convention; None for a user without a home."""
    if env.get(FOLDER):
        return Path(env[FOLDER])
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if platform == "darwin":
        return home / "Library" / "Caches" / "ringgraph"
    if platform == "win32":
        return Path(env.get("LOCALAPPDATA") or home / "AppData" / "Local") / "ringgraph" / "Cache"
    given = env.get("XDG_CACHE_HOME", "")  # the XDG specification: a path that is not absolute does not count
    return (Path(given) if os.path.isabs(given) else home / ".cache") / "ringgraph"


class ResultCache:
    """Texts by key in one folder (None: nowhere), of `max_bytes` in all; those read longest ago go first."""

    def __init__(self, folder: Path | None, max_bytes: int = MAX_BYTES):
        self._folder, self._max_bytes = folder, max_bytes

    def get(self, key: str) -> str | None:
        """The text kept under a key; None if there is none, or it is damaged."""
        path = self._path(key)
        if path is None:
            return None
        try:
            if not path.is_file() or path.stat().st_size > 2 * self._max_bytes:
                return None
            checksum, _, data = path.read_bytes().partition(b"\n")
            if _checksum(data) != checksum:
                return None
            text = data.decode()
        except (OSError, ValueError):
            return None
        with suppress(OSError):
            os.utime(path)
        return text

    def put(self, key: str, text: str) -> None:
        """Keeps a text, if it can be written and is not larger than all that may be kept."""
        path, data = self._path(key), text.encode(errors="surrogatepass")
        if path is None or len(data) > self._max_bytes:
            return
        with suppress(OSError, UnicodeError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file():  # a pipe would be waited for
                return
            write_text(path, f"{_checksum(data).decode()}\n{text}")
            self._shrink(path.parent)

    def _path(self, key: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}{_SUFFIX}"

    def _shrink(self, folder: Path) -> None:
        """Removes what was read longest ago until the rest is within bounds; other processes may do the same."""
        entries = []
        for path in folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):
                found = path.stat()
                entries.append((found.st_mtime_ns, found.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()
