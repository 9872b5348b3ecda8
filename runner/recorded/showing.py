"""This module says what a recording holds, as plain data: what 'ringgraph recorded show' prints; and proves a rebuilt one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from runner.base.tensor_spec import round_up
from runner.recorded.edges import schedule_of
from runner.recorded.programs import replay_recording
from runner.recorded.recording import Recording
from runner.rings.replay import Replay
from runner.rings.schedule import NUM_RINGS, Begin, End, Schedule, Submit
from runner.rings.steps import StepWalk, submission_rings


@dataclass(frozen=True)
class Shown:
    """A recording beside its schedule and its replay on the recorded capacities, under the progress that it names.

    `places` are `(ring, number on the ring)` of each submission, `scope_of` the scopes that they lie in.
    """

    recording: Recording
    schedule: Schedule
    replay: Replay
    places: tuple[tuple[int, int], ...]
    scope_of: tuple[int, ...]

    @classmethod
    def of(cls, recording: Recording) -> Shown:
        """Replays a recording; progress does not matter to where blocks lie."""
        schedule = schedule_of(recording)
        counts = [0] * NUM_RINGS
        places = []
        for _, ring in submission_rings(schedule):
            places.append((ring, counts[ring]))
            counts[ring] += 1
        walk = StepWalk(schedule)
        scope_of = tuple(walk.scopes[-1] for step in walk if isinstance(step, Submit))
        return cls(recording, schedule, replay_recording(recording), tuple(places), scope_of)

    def as_json(self) -> dict[str, Any]:
        """The object of `ringgraph recorded show --json`; times in microseconds, sizes in bytes."""
        sizes = self.recording.sizes
        return {
            "rings": [
                {"ring": ring, "heap": heap, "window": window, "pool": pool}
                for ring, (heap, window, pool) in enumerate(zip(sizes.heap, sizes.window, sizes.pool, strict=True))
            ],
            "scopes": list(self.scopes()),
            "submissions": list(self.submissions()),
            "blocks": list(self.blocks()),
            "edges": list(self.edges()),
            "estimated": list(self.recording.estimated),
            "proof": self.proof(),
        }

    # --- parts --------------------------------------------------------------------------------------------------------

    def scopes(self) -> Iterator[dict[str, Any]]:
        """Every scope with the first and last submission inside it, those of inner scopes included; None where there is none."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        walk = StepWalk(self.schedule)
        for step in walk:
            if isinstance(step, Submit):
                for scope in walk.scopes:
                    first.setdefault(scope, step.submission)
                    last[scope] = step.submission
        for k, scope in enumerate(self.recording.scopes):
            yield {
                "site": scope.site,
                "depth": scope.depth,
                "ring": self.schedule.scopes[k].ring,
                "mode": scope.mode,
                "first": first.get(k),
                "last": last.get(k),
            }

    def submissions(self) -> Iterator[dict[str, Any]]:
        for submission, (ring, number) in zip(self.recording.submissions, self.places, strict=True):
            head = {"name": submission.name, "ring": ring, "number": number, "kind": submission.kind}
            yield head | {"duration": submission.duration_us}

    def blocks(self) -> Iterator[dict[str, Any]]:
        """Every created tensor, in order; of a run that ends in a deadlock those that were placed."""
        recording = self.recording
        rebuilt = recording.facts.get("offsets")
        for index, submission in enumerate(recording.submissions):
            ring, number = self.places[index]
            sizes = [round_up(recording.tensors[tensor].size_bytes) for tensor in submission.creates]
            for tensor, size, inner in zip(submission.creates, sizes, accumulate([0, *sizes]), strict=False):
                if rebuilt is not None:
                    offset = rebuilt.get(tensor)
                else:
                    offset = self.replay.offsets[index] + inner if self.replay.offsets[index] >= 0 else None
                if offset is not None:
                    place = {"ring": ring, "task": number, "offset": offset, "bytes": size}
                    yield place | {"exact": recording.tensors[tensor].exact}

    def edges(self) -> Iterator[dict[str, Any]]:
        """Who waits for whom; `keeps`: the producer's block and slot stay until then. Explicit ones are those of `after`."""
        for index, (recorded, submission) in enumerate(zip(self.recording.submissions, self.schedule.submissions, strict=True)):
            explicit = {*recorded.after, *recorded.after_wait_only}
            for first in submission.waits:
                kept = first in submission.holds
                yield {"from": first, "to": index, "explicit": first in explicit, "keeps": kept}

    # --- the proof ----------------------------------------------------------------------------------------------------

    def proof(self) -> dict[str, Any]:
        """What comes out as it was recorded, whatever the timing: named addresses, bytes of each scope, edges; and what does not.

        Only a capture tells these; of other recordings nothing is compared.
        """
        facts = self.recording.facts
        found: dict[str, Any] = {"complete": True, "addresses": [0, 0], "scopes": [0, 0], "edges": [0, 0], "first_wrong": None}
        if facts.get("source") != "capture":
            return found
        for name, compared in (("addresses", self.addresses()), ("scopes", self.heads()), ("edges", self.derived())):
            for problem in compared:
                found[name][1] += 1
                found[name][0] += problem is None
                found["first_wrong"] = found["first_wrong"] or problem
        if self.replay.deadlock is not None and not facts["fatal"]:
            found["first_wrong"] = found["first_wrong"] or f"the replay ends: {self.replay.deadlock}"
        found["complete"] = found["first_wrong"] is None
        return found

    def addresses(self) -> Iterator[str | None]:
        """Per tensor that some task names None, or what is wrong with its offset."""
        facts, recording = self.recording.facts, self.recording
        for index, submission in enumerate(recording.submissions):
            sizes = [round_up(recording.tensors[tensor].size_bytes) for tensor in submission.creates]
            for tensor, inner in zip(submission.creates, accumulate([0, *sizes]), strict=False):
                if tensor in facts["named"]:
                    got = self.replay.offsets[index] + inner if self.replay.offsets[index] >= 0 else None
                    recorded = facts["offsets"][tensor]
                    same = got == recorded
                    yield (
                        None
                        if same
                        else (
                            f"'{recording.tensors[tensor].name}' of submission {index} lies at {got} of ring"
                            f" {self.places[index][0]}, recorded at {recorded}"
                        )
                    )

    def heads(self) -> Iterator[str | None]:
        """Per closed scope None, or what is wrong with the bytes that it allocates: `end.head - begin.head`."""
        begun: list[tuple[int, int]] = []
        for record, (begins, head) in zip(self.replay.records, self.recording.facts["heads"], strict=False):
            if begins:
                begun.append((record.heap_head, head))
                continue
            before, recorded_before = begun.pop()
            got, recorded = record.heap_head - before, head - recorded_before
            site = self.recording.scopes[record.scope].site
            yield (
                None
                if got == recorded
                else f"scope {site} (number {record.scope}) allocates {got:,} bytes, recorded {recorded:,}"
            )

    def derived(self) -> Iterator[str | None]:
        """Per recorded edge None, or that the rules do not derive it from the arguments; what they derive beside them."""
        if not self.recording.facts["has_edges"]:
            return
        untold = tuple(replace(s, waits=None, holds=None) for s in self.recording.submissions)
        rules = schedule_of(replace(self.recording, submissions=untold))
        for index, (told, ours) in enumerate(zip(self.schedule.submissions, rules.submissions, strict=True)):
            yield from [None] * len(set(told.waits) & set(ours.waits))
            for first in sorted(set(told.waits) - set(ours.waits)):
                yield f"the edge from submission {first} to {index} does not follow from the arguments"
            for first in sorted(set(ours.waits) - set(told.waits)):
                yield f"the arguments ask for an edge from submission {first} to {index}, which was not recorded"


def open_scopes(recording: Recording) -> int:
    """How many scopes a recording's steps leave open."""
    return sum(isinstance(step, Begin) - isinstance(step, End) for step in recording.steps)
