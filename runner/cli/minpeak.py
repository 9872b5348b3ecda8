"""What `ringgraph schedule` tells the minpeak strategy, and what it prints of the plan's certificate."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.base.errors import ConfigError

if TYPE_CHECKING:
    from schedulers.minpeak.planner import Plan

MIB = 2**20

Objective = Annotated[
    str | None,
    typer.Option("--objective", metavar="NAME", help="minpeak: total (the default), worst (the largest ring) or makespan."),
]
Budget = Annotated[
    str | None, typer.Option("--budget", metavar="SIZE", help="minpeak: the shortest makespan within so many bytes (128MiB).")
]
NoShare = Annotated[bool, typer.Option("--no-share", help="minpeak: no two tensors share bytes; scopes alone.")]
TimeLimit = Annotated[
    float | None, typer.Option("--time-limit", min=0, metavar="S", help="minpeak: seconds after which the best so far is taken.")
]


@dataclass
class MinpeakOptions:
    """The options as given; `plans` collects what the strategy reports."""

    objective: str | None = None
    budget: str | None = None
    no_share: bool = False
    time_limit: float | None = None
    written: bool = False
    show_progress: bool = False
    plans: list[Plan] = field(default_factory=list)

    def mapping(self) -> dict[str, object]:
        """As the strategy takes them; raises ConfigError."""
        return {
            "objective": self.objective,
            "budget_bytes": None if self.budget is None else _size(self.budget),
            "share": not self.no_share,
            "written": self.written,
            "time_limit_s": self.time_limit,
            "report": self.plans.append,
            "progress": _print_progress if self.show_progress else None,
        }

    def certificate(self) -> Mapping[str, Any] | None:
        """The last plan's certificate as plain data, None when another strategy planned."""
        if not self.plans:
            return None
        plan = self.plans[-1]
        found = plan.certificate
        return {
            "objective": found.objective,
            "value": found.value,
            "lower_bound": found.lower_bound,
            "gap": found.gap,
            "bound": found.bound,
            "idle_bytes": found.idle_bytes,
            "proved_optimal": found.proved_optimal,
            "found_by": plan.found_by,
        } | ({} if plan.shared_bytes is None else {"shared_bytes": plan.shared_bytes})

    def print_certificate(self) -> None:
        found = self.certificate()
        if found is None:
            return
        unit, scale = ("ms", 1000) if found["objective"] == "makespan" else ("MiB", MIB)
        optimal = "proved optimal" if found["proved_optimal"] else f"gap {found['gap'] / scale:,.3f} {unit}"
        if not found["proved_optimal"] and found["gap"] <= found["idle_bytes"]:
            optimal = f"proved optimal but for the 1,024 bytes of each unused ring ({found['gap']:,} bytes)"
        print(
            f"certificate: {found['objective']} {found['value'] / scale:,.3f} {unit} by {found['found_by']}; "
            f"lower bound ({found['bound']}) {found['lower_bound'] / scale:,.3f} {unit}: {optimal}"
        )
        shared = self.plans[-1].shared_bytes
        if shared is not None:
            print(f"with sharing, which files cannot say: {shared / MIB:,.3f} MiB")


def _size(text: str) -> int:
    from runner.rings.sizes import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError(f"--budget {text}: {error}") from None


def _print_progress(found_by: str, value: float) -> None:
    print(f"best so far: {value:,.0f} by {found_by}", file=sys.stderr)
