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
from places import ROOT

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


@pytest.fixture(scope="session")
def programs():
    """Programs of sessions, the last few that were asked for."""
    from runner.rings.schedule import Lately

    return Lately(8)


@pytest.fixture
def same_programs(programs, monkeypatch):
    """Sessions that are opened again have the program of before, where graph and configuration are the same: for tests of what
    sessions compute, not of how a graph of ours is expanded. Nobody changes a program."""
    from runner.driver.driver import registry
    from runner.language.library import find_graph
    from runner.serving import session

    expanded = session.program_for

    def program_for(config, ops, graph):
        path = find_graph(graph)
        if ops is not registry() or not path.is_relative_to(ROOT / "graphs"):
            return expanded(config, ops, graph)
        return programs.once((path, repr(config.values), repr(config.dtypes)), lambda: expanded(config, ops, graph))

    monkeypatch.setattr(session, "program_for", program_for)
