"""This module collects what `ringgraph placement` says of a graph's schedule."""

from __future__ import annotations

from runner.base.errors import ConfigError
from runner.driver.driver import Setup
from runner.driver.planning import PlanRequest, Say, place
from runner.report.placement.placement import Placement, placement_of
from runner.rings.devices.devices import device
from runner.rings.sizes import parse_size
from runner.verify.verify import check


def placement(setup: Setup, request: PlanRequest, card: str | None = None, say: Say | None = None) -> Placement:
    """The placement of a graph or recorded program under a request; raises RinggraphError. `card` is a size with a unit."""
    try:
        card_bytes = None if card is None else parse_size(card)
    except ValueError as error:
        raise ConfigError(f"--card {card}: {error}") from None
    found = place(setup, request, say=say)
    check(found.schedule, None, allow_missing_edges=request.allow_missing_edges)
    on = device(request.timed.device)
    assumed = {} if found.recorded is not None else {"routing": request.routing}
    return placement_of(found.schedule, found.sizes(request), card_bytes, assumed | {"device": on.name}, on)
