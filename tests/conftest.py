"""One thread for torch, here and in processes that tests start: tests are many small ops, and may run beside each other.

No test fails for being slow: on a busy machine everything is.

Bytecode is kept, also where the environment says not to: each process that a test starts would compile all modules again.

Each test has a cache folder of its own.

Ctrl-C means what it means on a terminal, also where tests run in the background of a shell that ignores it.
"""

import gc
import os
import signal
import sys
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

os.environ["OMP_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


def pytest_collection_finish():
    """Modules and tests stay to the end: the garbage collector need not look at them again and again, nor often at the rest."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 20)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """The cache folder of each test, which it begins without: no result of another run stands for its own."""
    folder = tmp_path_factory.getbasetemp() / f"cache-{uuid4().hex}"
    monkeypatch.setenv("RINGGRAPH_CACHE", str(folder))
    return folder


@pytest.fixture
def call(capsys):
    """Runs a command line in this process; returns its exit status and what it printed on standard output and error."""
    from runner.cli.main import main

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return ended.value.code or 0, out, err

    return run


@pytest.fixture
def short_searches(request, monkeypatch):
    """Planners try far less often by chance, but in slow tests: for plans that have to be sound, not the best."""
    from schedulers.minpeak import balance
    from schedulers.scopes import climbing

    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(balance, "EFFORTS", [(effort, most // 5) for effort, most in balance.EFFORTS[:1]])
        monkeypatch.setattr(climbing, "STEPS", climbing.STEPS // 5)
