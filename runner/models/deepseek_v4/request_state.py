"""DeepSeek-V4's state of requests, as the base layer declares it (`state:` in `graphs/config/deepseek_v4.yaml`), by itself."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from runner.base.errors import StateError
from runner.base.tensor_spec import TensorSpec
from runner.config.config import Config
from runner.serving.state.store import DeclaredState

__all__ = ["StateError", "StateStore"]


class StateStore(DeclaredState):
    """The state of all requests of one rank, under a configuration of the family."""

    def __init__(self, config: Config, states: Mapping[str, TensorSpec], device: str | torch.device = "cpu"):
        super().__init__(config.state, config, states, device)
