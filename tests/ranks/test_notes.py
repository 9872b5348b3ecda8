"""What ranks find out about a failure through their notes: ranks as threads, faults and delays drawn at random."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import pytest
from torch.distributed import HashStore

from runner.ranks import notes as module
from runner.ranks.notes import Notes

EXCHANGE = 5
"""The one that the others wait in."""


class Dead:
    """The store when the rank that held it is gone."""

    def __init__(self, store):
        self._store, self.gone = store, False

    def __getattr__(self, name):
        if self.gone:
            raise RuntimeError("connection reset by peer")
        return getattr(self._store, name)


def group(size, holder=None):
    """Ranks that listen, in the exchange number EXCHANGE."""
    with patch.object(module, "PrefixStore", lambda prefix, store: store):
        store = Dead(HashStore())
        ranks = [Notes(store, rank, size, holder) for rank in range(size)]
    for each in ranks:
        each.entered = EXCHANGE
        each.listen()
    return store, ranks


def victim(notes, waited_s, delay_s):
    time.sleep(delay_s)
    error = notes.blame("the connection between ranks failed: reset", waited_s)
    notes.linger(error.blamed, is_victim=True)
    return error


def blame(ranks, culprit, waited, rng):
    """What every victim says; `waited` are those whose time runs out, before the connections of the others close."""
    with ThreadPoolExecutor(len(ranks)) as threads:
        told = [
            threads.submit(victim, each, 8 if each.rank in waited else None, rng.random() * 0.2 + 0.2 * (each.rank not in waited))
            for each in ranks
            if each.rank != culprit
        ]
        return [each.result() for each in told]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("fault", ["raises", "dies", "is stopped", "hangs"])
def test_only_the_culprit_is_blamed_and_all_say_the_same(fault, seed):
    rng = random.Random(seed)
    size = rng.choice((2, 3, 4))
    culprit = rng.randrange(size)
    _, ranks = group(size)
    others = [rank for rank in range(size) if rank != culprit]
    waited = set(rng.sample(others, rng.randint(1, len(others)))) if fault in ("is stopped", "hangs") else set()
    if fault == "raises":
        ranks[culprit].leave("no such file")
        ranks[culprit].linger((), is_victim=False)
    elif fault == "hangs":
        ranks[culprit].entered = EXCHANGE - 1  # its other threads run, and it answers
    else:
        ranks[culprit]._stopped.set()
    with patch.object(module, "NOTE_S", 0.8):
        errors = blame(ranks, culprit, waited, rng)
    assert {error.blamed for error in errors} == {(culprit,)}
    assert {str(error) for error in errors} == {
        {
            "raises": f"rank {culprit} failed: no such file",
            "dies": f"rank {culprit} closed the connection without a word",
        }.get(fault, f"rank {culprit} did not answer within 8 s\nhint: raise --timeout-s if it was only slow")
    }
    assert all(error.silent == ((culprit,) if waited else ()) for error in errors)


def test_a_rank_that_holds_the_store_stays_until_all_know_its_cause():
    store, ranks = group(3, holder=0)
    ranks[0].leave("bad shard")
    ranks[0].linger((), is_victim=False)  # returns when both listeners have it, though neither is in an exchange
    store.gone = True
    assert [str(rank.blame("reset", None)) for rank in ranks[1:]] == ["rank 0 failed: bad shard"] * 2


def test_a_store_that_does_not_answer_is_blamed_on_its_holder_alone():
    """Its process is stopped: what asks it would wait for ever."""
    store, ranks = group(3, holder=0)
    store.check = lambda keys: time.sleep(100)
    with patch.object(module, "STORE_S", 0.3):
        errors = [rank.blame("timed out", 8) for rank in ranks[1:]]
    assert [(error.blamed, error.silent) for error in errors] == [((0,), (0,))] * 2
    assert "rank 0 did not answer within 8 s" in str(errors[0])


def test_a_store_that_is_gone_is_blamed_on_its_holder_alone():
    store, ranks = group(3, holder=0)
    store.gone = True
    assert [rank.blame("reset", None).blamed for rank in ranks[1:]] == [(0,), (0,)]


def test_a_connection_that_fails_between_ranks_that_all_answer_blames_none():
    _, ranks = group(2)
    error = ranks[1].blame("the connection between ranks failed: reset", None)
    assert (str(error), error.blamed) == ("the connection between ranks failed: reset", ())
