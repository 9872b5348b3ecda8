"""`ringgraph`, and `python -m runner`: the command line.

Importing it takes some tenths of a second, in which Ctrl-C ends the process as it does later: with a word, not with a traceback.
"""

import os
import signal
from types import FrameType


def main() -> None:
    """Runs the command line; see `runner.cli.main.main`."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    from runner.cli.main import main as run

    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _end(_number: int, _frame: FrameType | None) -> None:
    """An exception in the middle of an import may end in any handler; nothing is open yet that would need one."""
    os.write(2, b"interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
