"""Python runs this when it starts with this folder on its path: one rank then fails at a given place.

RINGGRAPH_FAULT is `RANK|PLACE|ACTION`: when rank RANK comes to a place (`decode call 1, node '...'`) in whose text the regular
expression PLACE is found, it does what ACTION says:

    raise      raises an error of its own        kill       is killed
    leave      calls `sys.exit(3)`               stop       is stopped: it lives, but no thread of it runs
    exit       calls `os._exit(3)`               hang       never comes back, while its other threads run
    interrupt  sends Ctrl-C to its parent        break      gets Ctrl-C itself

With `inside ` before the action it first enters the exchange that follows, and waits in it for the others, which come a second
later.
"""

import os
import re
import signal
import sys
import threading
import time

_rank, _, _rest = os.environ.get("RINGGRAPH_FAULT", "").partition("|")
_place, _, _action = _rest.rpartition("|")
_inside, _action = _action.startswith("inside "), _action.removeprefix("inside ")


def _send(name):
    return lambda: os.kill(os.getpid(), getattr(signal, name))


def _raise():
    raise RuntimeError("the test made this up")


_ACTIONS = {
    "raise": _raise,
    "leave": lambda: sys.exit(3),
    "exit": lambda: os._exit(3),
    "interrupt": lambda: os.kill(os.getppid(), signal.SIGINT),
    "kill": _send("SIGKILL"),
    "stop": _send("SIGSTOP"),
    "break": _send("SIGINT"),
    "hang": lambda: time.sleep(10**6),
}


def _fail():
    if not _inside:
        _ACTIONS[_action]()
    elif os.environ["RANK"] == _rank:
        threading.Timer(0.5, _ACTIONS[_action]).start()
    else:
        time.sleep(1)


if _rank and (os.environ.get("RANK") == _rank or (_inside and os.environ.get("RANK"))):
    from runner.ranks import reports as rank_reports

    _write = rank_reports.Place._write

    def _write_and_fail(self, text):
        _write(self, text)
        if re.search(_place, text):
            _fail()

    rank_reports.Place._write = _write_and_fail
