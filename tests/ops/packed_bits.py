"""Prints the shapes of which a row's product, packed, has other bits by itself than among 140 rows, under some number of threads.

A process of its own, as MKL reads what it may use once: `MKL_CBWR`, `MKL_ENABLE_INSTRUCTIONS`.
"""

import random

import torch

from ops.kernels.packed import pack, way_of_shape

SUMS, COLUMNS = (64, 300, 512, 1024, 2048), (7, 16, 33, 64, 100, 250, 512, 1000)
ROWS, ALL_ROWS = (*range(1, 14), 15, 19, 24, 25, 31, 33, 48, 65, 100, 127, 129, 140), 140


def differing(num_sums: int, num_columns: int, chosen: random.Random) -> list[tuple[int, ...]]:
    ways = {threads: way_of_shape(num_columns, num_sums, threads) for threads in (1, 2, 3)}
    one = ways[1]
    if one is None or None in ways.values():
        return [(threads,) for threads, way in ways.items() if (way is None) != (one is None)]
    made = torch.Generator().manual_seed(num_sums * num_columns)
    w, x = (torch.randn(size, num_sums, generator=made) for size in (num_columns, ALL_ROWS))
    expected = pack(w, one)(x)
    wrong = []
    for threads, way in ways.items():
        assert way is not None
        multiply = pack(w, way)
        torch.set_num_threads(threads)
        for count in ROWS:
            first, offset = chosen.randrange(ALL_ROWS - count + 1), chosen.randrange(16)
            rows = torch.empty(count * num_sums + 16)[offset : offset + count * num_sums].view(count, num_sums)
            if not torch.equal(multiply(rows.copy_(x[first : first + count])), expected[first : first + count]):
                wrong.append((threads, count))
        torch.set_num_threads(1)
    exact = x.double() @ w.double().T
    return wrong + [(0,)] * bool(float((expected - exact).norm() / exact.norm()) > 1e-6)


def main() -> None:
    torch.set_num_threads(1)
    chosen, num_packed = random.Random(0), 0
    for num_sums in SUMS:
        for num_columns in COLUMNS:
            num_packed += way_of_shape(num_columns, num_sums, 1) is not None
            for found in differing(num_sums, num_columns, chosen):
                print("differs", num_columns, num_sums, *found)
    print("packed", num_packed)


if __name__ == "__main__":
    main()
