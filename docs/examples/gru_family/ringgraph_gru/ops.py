"""The ops of the family: V token ids, width D, B tokens of as many requests, R slots."""

import torch

from runner import Cost, OpRegistry

ops = OpRegistry()


def _cost(call):
    """Every task multiplies B rows by its matrices, two operations a weight."""
    weights = sum(call.operands[name].num_elements for name in ("w", "w_ih", "w_hh") if name in call.operands)
    return Cost(flops=2 * call.operands["x"].shape[0] * weights, bytes=call.moved_bytes)


@ops.op("gru_embed", "tokens: i64[B], table: f32[V, D] -> x: f32[B, D]", core="AIV")
def gru_embed(tokens, table, *, x):
    """The row of each token."""
    x.copy_(table[tokens])


@ops.op(
    "gru_cell",
    "x: f32[B, D], slots: i64[B], w_ih: f32[3 * D, D], w_hh: f32[3 * D, D], b_ih: f32[3 * D], b_hh: f32[3 * D]"
    " -> y: f32[B, D], &hidden: f32[R, D]",
    core="MIX",
    cost=_cost,
    source="torch.nn.GRU",
)
def gru_cell(x, slots, w_ih, w_hh, b_ih, b_hh, *, y, hidden):
    """One step of one layer: `y` is the new hidden state of each token's request, kept in its slot; slot -1 is idle."""
    old = hidden[slots.clamp_min(0)]
    reset_x, update_x, new_x = (x @ w_ih.T + b_ih).chunk(3, -1)
    reset_h, update_h, new_h = (old @ w_hh.T + b_hh).chunk(3, -1)
    update = torch.sigmoid(update_x + update_h)
    new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
    y.copy_((1 - update) * new + update * old)
    busy = slots >= 0
    hidden[slots[busy]] = y[busy]


@ops.op("gru_scores", "x: f32[B, D], w: f32[V, D], b: f32[V] -> scores: f32[B, V]", core="AIC", cost=_cost)
def gru_scores(x, w, b, *, scores):
    """How likely every token is to come next: x @ w.T + b."""
    torch.addmm(b, x, w.T, out=scores)
