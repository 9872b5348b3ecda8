"""Commands that people wait for start with few imports, and take little processor time."""

import os
import subprocess
import sys

import pytest
from places import ROOT

LISTED = """
import sys
from runner.cli import main
main.end = lambda status: sys.exit(status)
try:
    main.main(sys.argv[1:])
finally:
    print("|", *sys.modules, file=sys.stderr)
"""

SLOW = {"torch", "numpy", "pydantic", "networkx", "jsonschema", "matplotlib", "ruamel", "schedulers", "safetensors"}


def modules(*arguments):
    """The packages that a command imported, and rooms of ours."""
    done = subprocess.run([sys.executable, "-c", LISTED, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stderr.rpartition("|")[2].split()}


@pytest.mark.parametrize("arguments", [("--help",), ("lint", "moe"), ("ops", "list"), ("schedule", "--help")], ids=" ".join)
def test_what_looks_only_imports_no_large_package(arguments):
    assert modules(*arguments) & SLOW == set()


@pytest.mark.bench
@pytest.mark.parametrize(
    "limit_s, arguments",
    [(0.25, ("--help",)), (0.5, ("lint", "moe")), (1.5, ("lint", "graphs/deepseek_v4"))],
    ids=["help", "one file", "all shipped"],
)
def test_processor_seconds(limit_s, arguments):
    """The least of five: other processes on the machine only add."""
    taken = []
    for _ in range(5):
        command = [sys.executable, "-m", "runner", *arguments]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert status == 0
        taken.append(used.ru_utime + used.ru_stime)
    print(f"ringgraph {' '.join(arguments)}: {min(taken):.2f} s of processor time, limit {limit_s} s")
    assert min(taken) <= limit_s
