"""What lint says of orders and blocks is what the verifier says of the plan, and what neither refuses runs right in any order.

`RINGGRAPH_SEEDS=100:1100 pytest tests/lint/test_as_verified.py` takes others.
"""

import os
import random

import random_lists

from runner import Driver
from runner.rings.capacity import ring_loads, safe_heap
from runner.verify.verify import verify
from schedulers import get_scheduler

ORDERS = {"G312", "G316", "G318", "G337", "G341"}
"""Codes of missing edges, of blocks that nothing keeps, and of auto scopes in manual ones."""


def test_lint_refuses_what_the_verifier_refuses(tmp_path):
    begin, _, end = os.environ.get("RINGGRAPH_SEEDS", "0:60").partition(":")
    refused = 0
    for seed in range(int(begin), int(end)):
        rng = random.Random(seed)
        graph, stage = random_lists.graphs(rng)
        random_lists.loosened(graph, rng)
        path = random_lists.written(tmp_path, graph, stage)
        codes = {finding.code for finding in random_lists.findings(path)} & ORDERS
        program = random_lists.cells(random_lists.SETUP.program(path))
        schedule = get_scheduler("annotated")(program, {})
        found = verify(schedule)
        assert bool(codes) == bool(found), f"seed {seed}: {codes}, {[str(one) for one in found]}"
        assert found or random_lists.in_any_order(program, program, schedule, seed), (
            f"seed {seed}: other results in another order"
        )
        refused += bool(found)
    assert refused > (int(end) - int(begin)) / 20


def with_list(graph, stage, rng):
    """Both with random `share:` lists, in the order of keys that a file has."""
    stage["share"] = random_lists.random_list(rng, random_lists.names(stage))
    known = [name for name in random_lists.names(graph) if stage["share"] or not name.startswith("stage")]
    graph["share"] = random_lists.random_list(rng, known)
    keys = ("graph", "inputs", "outputs", "share", "body")
    return ({key: one[key] for key in keys if one.get(key)} for one in (graph, stage))


def test_what_fits_is_not_said_to_be_too_large(tmp_path):
    """In rings of safe capacities no scope holds more than its ring, whatever lies in arenas."""
    with_arenas = 0
    for seed in range(16):
        rng = random.Random(seed)
        path = random_lists.written(tmp_path, *with_list(*random_lists.graphs(rng), rng))
        if random_lists.findings(path):
            continue
        program = random_lists.SETUP.program(path)
        heap = [safe_heap(load) for load in ring_loads(get_scheduler("annotated")(program, {}))]
        found = Driver(ops=random_lists.OPS).lint(path, ring_heap=",".join(map(str, heap)))
        codes = {finding.code for finding in found}
        assert "G319" not in codes, f"seed {seed}"
        with_arenas += bool(program.arenas)
    assert with_arenas >= 3
