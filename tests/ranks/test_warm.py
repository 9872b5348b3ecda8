"""Processes that tests fork in place of starting them do and end as started ones do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from warm import Warm, launched

PROGRAMS = {
    "falls off its end": "import sys; print(sys.argv, __name__)",
    "exits": "import sys; sys.stdout.write('kept'); sys.exit(3)",
    "exits with a word": "import sys; sys.exit('why')",
    "fails": "raise ValueError('wrong')",
    "ends as Python ends": (
        "import atexit, threading, time\n"
        "atexit.register(print, 'at its end')\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('waited for'))).start()"
    ),
    "is killed": "import os; os.kill(os.getpid(), 9)",
    "is interrupted": "import os, signal\ntry: os.kill(os.getpid(), signal.SIGINT)\nexcept KeyboardInterrupt: print('caught')",
    "reads its environment": "import os; print(sorted(name for name in os.environ if name.startswith('GIVEN')), os.getcwd())",
    "reads nothing": "import sys; print(repr(sys.stdin.read()))",
}


@pytest.mark.parametrize(("program", "how"), [*((program, "-c") for program in PROGRAMS), ("fails", "script")])
def test_a_warm_process_does_what_a_started_one_does(program, how, tmp_path, monkeypatch):
    script = tmp_path / "program.py"
    script.write_text(PROGRAMS[program])
    arguments = ["-c", PROGRAMS[program], "a", "b"] if how == "-c" else [str(script), "a", "b"]
    env = {**os.environ, "GIVEN_1": "x"}
    monkeypatch.setenv("GIVEN_2", "not to be seen")
    monkeypatch.chdir(tmp_path)
    started = subprocess.run([sys.executable, *arguments], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    warm = Warm(arguments, env)
    out, err = warm.communicate(timeout=300)
    assert (warm.returncode, out, err.splitlines()[-1:]) == (started.returncode, started.stdout, started.stderr.splitlines()[-1:])


def test_ranks_are_its_children_and_a_signal_finds_it(tmp_path, monkeypatch):
    told = "import os, time; open(f\"{os.environ['RANK']}-{os.getppid()}\", 'x'); time.sleep(1000)"
    launch = f"launch([sys.executable, '-c', {told!r}], 2, timeout_s=100)"
    warm = Warm(
        ["-c", f"import os, sys; os.chdir({str(tmp_path)!r}); from runner.ranks.launch import launch; {launch}"], num_ranks=2
    )
    deadline = time.monotonic() + 200
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"0-{warm.pid}", f"1-{warm.pid}"]
    warm.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in warm.communicate(timeout=200)[1] and warm.returncode == -signal.SIGINT


def test_a_rank_that_fails_fails_the_test(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import os, sys; sys.exit(int(os.environ['RANK']))\n")
    with pytest.raises(AssertionError, match=r"\[rank 1\] ended with exit code 1"):
        launched(program, num_ranks=2, timeout_s=100)
