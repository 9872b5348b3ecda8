"""Attention of a chunk as one call: the bits of gathering, attending and merging one by one, whatever keys slide or are none."""

from types import SimpleNamespace

import pytest
import torch

from ops.kernels.deepseek_v4.attention import attention
from ops.kernels.deepseek_v4.attention.attention import attend_gathered, gather_kv, merge_norm, qk_pv
from ops.kernels.deepseek_v4.attention.key_indices import build_bias

TOKENS, RING, PAGE, HEADS, WIDTH, ROPE = 37, 16, 8, 3, 12, 4


def positions(kind):
    count = torch.arange(TOKENS)
    given = {
        "from the start": count,
        "later": count + 301,
        "idle at the end": count.where(count < 20, -1),
        "idle before": (count - 9).clamp(min=-1),
        "all idle": torch.full_like(count, -1),
        "with a gap": count + 40 * (count > 17),
    }
    return given[kind].int()


def key_indices(position, num_tiles, generator):
    """Key indices [T, K] as tasks make them: the window by position, then rows that a token chose in any order, or none."""
    first = position[position >= 0][:1] if bool((position >= 0).any()) else torch.zeros(1)
    key = position[:, None] - torch.arange(RING - 1, -1, -1)
    fresh = ((position[None, None, :] == key[:, :, None]) & (position >= 0)[None, None, :]).int()
    window = torch.where((key >= first) & fresh.any(-1), fresh.argmax(-1), TOKENS + key.clamp(min=0) % RING)
    window = window.masked_fill((key < 0) | (position < 0)[:, None], -1)
    chosen = torch.rand(TOKENS, (num_tiles - 1) * RING, generator=generator).argsort(1)
    chosen = chosen.masked_fill(chosen >= (position[:, None] + 1) // 4, -1) if num_tiles > 1 else chosen
    return torch.cat((window, chosen.where(chosen < 0, chosen + TOKENS + RING)), 1).int()


@pytest.mark.parametrize("kind", ["from the start", "later", "idle at the end", "idle before", "all idle", "with a gap"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_tiles", [1, 2, 6])
@pytest.mark.parametrize("tokens_at_a_time", [1, 5, 100])
def test_a_chunk_as_one_call_makes_the_bits_of_tasks_one_by_one(kind, dtype, num_tiles, tokens_at_a_time, monkeypatch):
    monkeypatch.setattr(attention, "_GATHERED", tokens_at_a_time * num_tiles * RING * WIDTH)
    generator = torch.Generator().manual_seed(num_tiles)
    position, columns = positions(kind), num_tiles * RING

    def draw(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    sources = {"block_table": torch.tensor([3, 1]), "kv_cache": draw(5, PAGE, 1, WIDTH), "kv": draw(TOKENS, WIDTH)}
    sources |= {"cmp_block_table": torch.arange(12), "cmp_kv": draw(12, PAGE, 1, WIDTH)}
    keys = {"indices": key_indices(position, num_tiles, generator), "lens": torch.full((1, TOKENS), columns)}
    keys["lens"][0, 5:9] = columns - 3
    q, sink = draw(TOKENS, HEADS, WIDTH), draw(HEADS).float()

    rows = TOKENS * HEADS * num_tiles
    inner = {"sparse_kv": torch.zeros(TOKENS * columns, WIDTH, dtype=dtype), "bias": torch.zeros(TOKENS, columns)}
    inner |= {"mi": torch.zeros(rows, 1), "li": torch.zeros(rows, 1), "oi": torch.zeros(rows, WIDTH)}
    sparse_kv, bias, *partial = inner.values()
    gather_kv(**keys, **sources, sparse_kv=sparse_kv)
    build_bias(**keys, bias=bias)
    qk_pv(sparse_kv, bias, q, **dict(zip(("mi", "li", "oi"), partial, strict=True)))

    def outs():
        return {"rope_stage": torch.zeros(TOKENS * HEADS, ROPE), "o_packed": torch.zeros(TOKENS, HEADS * WIDTH, dtype=dtype)}

    expected, made = outs(), outs()
    merge_norm(*partial, sink, **expected)
    specs = {name: SimpleNamespace(shape=tuple(value.shape)) for name, value in inner.items()}
    attend_gathered([{**keys, **sources, **specs, **made, "q": q, "sink": sink}])
    assert all(torch.equal(expected[name], made[name]) for name in made)
    busy = (position >= 0).repeat_interleave(HEADS)
    assert bool(made["rope_stage"].any(1).equal(busy))
