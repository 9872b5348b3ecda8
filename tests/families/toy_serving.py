"""The toy family with requests that are served: what was read is summed up, and that scores every token of seven."""

from pathlib import Path

import torch
from toy_model import Toy

from runner.models.protocols import Serving, Vocabulary

GRAPH = str(Path(__file__).with_name("toy_fwd.yaml"))


class Memories:
    """See `RequestState`: a row a request."""

    def __init__(self, states):
        self.tensors = {name: torch.zeros(spec.shape) for name, spec in states.items()}
        self.free = list(range(9))

    def admit(self, num_tokens, prompt_len):
        handle = self.free.pop()
        self.tensors["memory"][handle] = 0
        return handle

    def release(self, handle):
        self.free.append(handle)

    def batch_inputs(self, rows, inputs):
        found = {"tokens": torch.zeros(inputs["tokens"].shape, dtype=torch.int64)}
        found["slots"] = torch.full_like(found["tokens"], -1)
        each = [(handle, token) for handle, tokens, _ in rows for token in tokens]
        for at, (handle, token) in enumerate(each):
            found["tokens"][at], found["slots"][at] = token, handle
        return found


class ServingToy(Toy):
    """Reads in the deployment `reading`, a batch of tokens of one request; steps in `stepping`, one token of each of a batch."""

    routed_experts = None

    def serving(self, config, decode=None):
        configs = {"prefill": config.with_(deploy="reading"), "decode": config.with_(deploy=decode or "stepping")}
        reading, stepping = (configs[phase]["batch"] for phase in ("prefill", "decode"))
        return Serving(config, dict.fromkeys(configs, GRAPH), configs, "scores", stepping, 1, reading)

    def fitting(self, config, lengths, max_new_tokens, decode=None):
        return config

    def vocabulary(self, config):
        return Vocabulary(7, (6,))

    def request_state(self, settings, states, device):
        return Memories(states)


def family():
    return ServingToy()
