"""An exact solver of bytes against time for small programs without loops, written from the rules alone (CP-SAT).

Every tensor has an offset; those that live at once in submission order do not overlap; where two others do, every task that
touches the later one begins after every task that touches the earlier one has finished. The offsets lie in arenas on one to four
rings, which nothing straddles; a ring without an arena has a unit. Arenas and then tasks are submitted one after the other, and
tasks run on workers without limit. But for what submitting arenas costs, no placement does better: where blocks of scopes lie in
the run in which every slot retires as late as can be is such a set of offsets.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, pairwise
from math import ceil

from ortools.sat.python import cp_model

from runner.program.lifetimes import Lives

RINGS = 4
EFFORT = 20.0
"""Of the solver, about as many seconds. Hardly a program needs that much; then what it has proved so far stands for the answer, a
bound that nothing can pass."""


@dataclass(frozen=True)
class Exact:
    """The model of one program; times in ticks: `lengths` of the tasks, `submits` of submitting each (0 for its allocs), `arena`
    of submitting an arena. Answers are None where nothing that is asked for exists."""

    lives: Lives
    lengths: list[int]
    submits: list[int]
    arena: int

    def fewest_units(self, most_ticks: int) -> int | None:
        """The fewest units of all rings together with which the program runs within so many ticks."""
        model, total, end = self._model()
        model.add(end <= most_ticks)
        return _least(model, total)

    def fewest_ticks(self, most_units: int) -> int | None:
        """The shortest run within so many units."""
        model, total, end = self._model()
        model.add(total <= most_units)
        return _least(model, end)

    def _model(self) -> tuple[cp_model.CpModel, cp_model.LinearExpr, cp_model.IntVar]:
        model, lives = cp_model.CpModel(), self.lives
        most = int(lives.size.sum()) + 1
        horizon = sum(self.lengths) + sum(self.submits) + RINGS * self.arena
        tasks = lives.program.tasks
        num_arenas = model.new_int_var(1, RINGS, "")
        begins, clock = [], 0
        for task, submit in zip(tasks, self.submits, strict=True):
            clock += submit
            begins.append(model.new_int_var(0, 2 * horizon, ""))
            model.add(begins[-1] >= clock + self.arena * num_arenas)
            for wait in {*task.waits, *task.after}:
                model.add(begins[task.id] >= begins[wait] + self.lengths[wait])
        touchers: list[list[int]] = [[] for _ in lives.size]
        for task in tasks:
            for tensor in set(lives.touches.row(task.id)):
                touchers[tensor].append(task.id)
        lows = [model.new_int_var(0, most - int(size), "") for size in lives.size]
        highs = [low + int(size) for low, size in zip(lows, lives.size, strict=True)]
        for a, b in combinations(range(len(lows)), 2):
            ways = [model.new_bool_var(""), model.new_bool_var("")]
            model.add(highs[a] <= lows[b]).only_enforce_if(ways[0])
            model.add(highs[b] <= lows[a]).only_enforce_if(ways[1])
            old, new = (a, b) if lives.end[a] <= lives.first[b] else (b, a)
            if lives.end[old] <= lives.first[new]:
                shared = model.new_bool_var("")
                ways.append(shared)
                for user in touchers[new]:
                    for before in touchers[old]:
                        model.add(begins[user] >= begins[before] + self.lengths[before]).only_enforce_if(shared)
            model.add_bool_or(ways)
        height, end = model.new_int_var(1, most, ""), model.new_int_var(0, 2 * horizon, "")
        model.add_max_equality(height, [1, *highs])
        cuts = [0, *(model.new_int_var(1, most, "") for _ in range(1, RINGS))]
        for k, (lower, cut) in enumerate(pairwise(cuts), 1):
            is_made = model.new_bool_var("")
            model.add(num_arenas > k).only_enforce_if(is_made)
            model.add(num_arenas <= k).only_enforce_if(~is_made)
            model.add(lower < cut).only_enforce_if(is_made)
            model.add(cut < height).only_enforce_if(is_made)
            for low, high in zip(lows, highs, strict=True):
                ways = [model.new_bool_var(""), model.new_bool_var(""), ~is_made]
                model.add(high <= cut).only_enforce_if(ways[0])
                model.add(low >= cut).only_enforce_if(ways[1])
                model.add_bool_or(ways)
        for begin, length in zip(begins, self.lengths, strict=True):
            model.add(end >= begin + length)
        return model, height + RINGS - num_arenas, end


def _least(model: cp_model.CpModel, value: cp_model.LinearExpr) -> int | None:
    model.minimize(value)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = EFFORT
    status = solver.solve(model)
    assert status in (cp_model.OPTIMAL, cp_model.FEASIBLE, cp_model.INFEASIBLE)
    return None if status == cp_model.INFEASIBLE else ceil(solver.best_objective_bound - 1e-6)
