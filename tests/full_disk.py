"""A disk that is full, for files of this process."""

import resource
import signal
from contextlib import contextmanager


@contextmanager
def full_disk(limit=64):
    """No file grows beyond `limit` bytes: the system refuses the write itself, as a full disk does."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
