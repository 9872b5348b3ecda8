"""Python runs this when it starts with this folder on its path: one rank then fails at a given place.

RINGGRAPH_FAULT is `RANK|PLACE|ACTION`: when rank RANK comes to a place (`decode call 1, node '...'`) in whose text the regular
expression PLACE is found, it is killed, stopped (it lives, but never answers), or raises an error of its own.
"""

import os
import re
import signal

_rank, _, _rest = os.environ.get("RINGGRAPH_FAULT", "").partition("|")
_place, _, _action = _rest.rpartition("|")

if _rank and os.environ.get("RANK") == _rank:
    from runner.ranks import reports as rank_reports

    _write = rank_reports.Place._write

    def _write_and_fail(self, text):
        _write(self, text)
        if re.search(_place, text):
            if _action == "raise":
                raise RuntimeError("the test made this up")
            os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[_action])

    rank_reports.Place._write = _write_and_fail
