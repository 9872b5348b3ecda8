"""A disk that is full, for files of this process."""

import resource
import signal
import sys
from contextlib import contextmanager


@contextmanager
def full_disk(limit=64):
    """No file grows beyond `limit` bytes: the system refuses the write itself, as a full disk does.

    No bytecode is written meanwhile: Python would leave the beginning of a module's, and fail to read it from then on.
    """
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    writes_none, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes_none
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
