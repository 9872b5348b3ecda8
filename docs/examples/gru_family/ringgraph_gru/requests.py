"""What requests leave behind between calls: one hidden state a layer, in the slot of the request."""

import torch

from runner import StateError


class HiddenStates:
    """See `RequestState`. A request's handle is its slot."""

    def __init__(self, shape, device):
        self.hidden = torch.zeros(shape, device=device)  # f32[depth, requests, width]
        self.tensors = {"hidden": self.hidden}
        self.free = list(range(shape[1]))

    def admit(self, num_tokens, prompt_len):
        if not self.free:
            raise StateError(f"all {self.hidden.shape[1]} slots are taken", hint="set 'requests' to as many as 'batch'")
        slot = self.free.pop()
        self.hidden[:, slot] = 0
        return slot

    def release(self, handle):
        self.free.append(handle)

    def batch_inputs(self, rows, inputs):
        """One row's tokens in a prefill call, one token of each row in a decode call; slot -1 where there is none."""
        tokens = torch.zeros(inputs["tokens"].shape, dtype=torch.int64)
        slots = torch.full_like(tokens, -1)
        each = [(token, slot) for slot, row_tokens, _ in rows for token in row_tokens]
        for at, (token, slot) in enumerate(each):
            tokens[at], slots[at] = token, slot
        return {"tokens": tokens, "slots": slots}
