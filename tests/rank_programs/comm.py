"""Run once a rank: every exchange checked against what the ranks must have sent, which each rank works out for itself."""

import sys

import torch

from runner.ranks.join import given_world, joined

DTYPES = (torch.int8, torch.uint8, torch.bool, torch.int32, torch.int64, torch.float32, torch.bfloat16, torch.float8_e4m3fn)


def rows_of(case: int, source: int, destination: int, counts: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype):
    """What one rank sends another: bytes that no other pair or case has."""
    generator = torch.Generator().manual_seed(1000 * case + 10 * source + destination)
    values = torch.randint(-100, 100, (int(counts[source, destination]), *shape), generator=generator)
    return values.to(dtype)


def counts_of(case: int, size: int) -> torch.Tensor:
    """Rows from each rank (row) to each rank (column); some cases have ranks, or all of them, with nothing to send."""
    counts = torch.randint(0, 5, (size, size), generator=torch.Generator().manual_seed(case))
    if case % 5 == 1:
        counts[case % size] = 0
    if case % 5 == 2:
        counts[:, case % size] = 0
    if case % 5 == 3:
        counts.zero_()
    return counts


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.float(), b.float())


def main() -> None:
    torch.set_num_threads(1)
    world = given_world()
    assert world is not None
    with joined(world, timeout_s=120) as comm:
        assert (comm.rank, comm.size) == (world.rank, world.size)
        case = 0
        for dtype in DTYPES:
            for shape in ((), (3,), (2, 5), (0,)):
                case += 1
                counts = counts_of(case, comm.size)
                sent = torch.cat([rows_of(case, comm.rank, to, counts, shape, dtype).float() for to in range(comm.size)]).to(
                    dtype
                )
                send, receive = counts[comm.rank].tolist(), counts[:, comm.rank].tolist()
                expected = torch.cat([rows_of(case, by, comm.rank, counts, shape, dtype).float() for by in range(comm.size)]).to(
                    dtype
                )
                assert same(comm.all_to_all(sent, send, receive), expected), (case, dtype, shape)
                each = [torch.full(shape, rank + case, dtype=torch.int64).to(dtype) for rank in range(comm.size)]
                gathered = comm.all_gather(each[comm.rank])
                assert same(gathered.float(), torch.stack([x.float() for x in each])) and gathered.dtype == dtype, (case, dtype)
        strided = torch.arange(12).view(3, 4).T[:, comm.rank % 3]  # what is not contiguous arrives in the order of its indices
        assert comm.all_gather(strided)[0].tolist() == [0, 1, 2, 3]
    print(f"rank {world.rank}: {case} cases")


if __name__ == "__main__":
    sys.exit(main())
