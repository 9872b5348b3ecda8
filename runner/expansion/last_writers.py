"""Who wrote which part of a tensor last: the RAW and WAW edges of overlapping regions, exactly.

A tensor starts with one writer for all of it. Writing boxes splits it dimension by dimension into slabs, each with one writer
or with slabs of the next dimension, so that tiles along any axis are found by bisection, whatever their number. That a writer may
not run, being in a dynamic loop, is the builder's business (`ProgramBuilder.displaced`).
"""

from __future__ import annotations

from bisect import bisect_right

from runner.program.program import Box, Region

NOBODY = -1


class _Slabs:
    """Dimension `axis` cut into `[starts[i], starts[i + 1])`, each with a writer (int) or slabs of the next dimension."""

    __slots__ = ("children", "starts")

    def __init__(self, starts: list[int], children: list[int | _Slabs]):
        self.starts = starts
        self.children = children

    def copy(self) -> _Slabs:
        return _Slabs(self.starts[:], [child if isinstance(child, int) else child.copy() for child in self.children])

    def split(self, at: int, size: int) -> int:
        """Index of the slab that begins at `at`, cutting one in two if need be."""
        if at == size:
            return len(self.starts)
        i = bisect_right(self.starts, at) - 1
        if self.starts[i] == at:
            return i
        child = self.children[i]
        self.starts.insert(i + 1, at)
        self.children.insert(i + 1, child if isinstance(child, int) else child.copy())
        return i + 1


def _all(node: int | _Slabs, found: set[int]) -> None:
    if isinstance(node, int):
        found.add(node)
    else:
        for child in node.children:
            _all(child, found)


class Writers:
    """The last writers of one tensor of a given shape; `NOBODY` is never reported."""

    __slots__ = ("parts", "root", "shape")

    def __init__(self, shape: tuple[int, ...], writer: int = NOBODY):
        self.shape = shape
        self.root: int | _Slabs = writer
        self.parts: dict[tuple[int, ...], int] = {}

    def of(self, region: Region) -> set[int]:
        """The last writers of what lies in `region`."""
        found: set[int] = set()
        if region.part is not None:
            self._boxes(region.box, found)
            writer = self.parts.get(region.part, NOBODY)
            found = {other for other in found if other > writer} | {writer}
        else:
            self._boxes(region.box, found)
            found.update(self.parts.values())
        found.discard(NOBODY)
        return found

    def write(self, region: Region, writer: int) -> set[int]:
        """Makes `writer`, which is later than all before it, the last writer of `region`; returns those it follows."""
        found = self.of(region)
        if region.part is not None:
            self.parts[region.part] = writer
        elif region.box is None or self._full(region.box, 0):
            self.root = writer
            self.parts.clear()
        elif all(lo < hi for lo, hi in region.box):
            self.root = self._write(self.root, region.box, 0, writer)
        return found

    def _boxes(self, box: Box | None, found: set[int]) -> None:
        if box is None:
            _all(self.root, found)
        elif all(lo < hi for lo, hi in box):
            self._read(self.root, box, 0, found)

    def _full(self, box: Box, axis: int) -> bool:
        return all(box[i] == (0, self.shape[i]) for i in range(axis, len(box)))

    def _read(self, node: int | _Slabs, box: Box, axis: int, found: set[int]) -> None:
        if isinstance(node, int):
            found.add(node)
            return
        lo, hi = box[axis]
        i = bisect_right(node.starts, lo) - 1
        while i < len(node.starts) and node.starts[i] < hi:
            self._read(node.children[i], box, axis + 1, found)
            i += 1

    def _write(self, node: int | _Slabs, box: Box, axis: int, writer: int) -> int | _Slabs:
        if self._full(box, axis):
            return writer
        if isinstance(node, int):
            node = _Slabs([0], [node])
        lo, hi = box[axis]
        i, j = node.split(lo, self.shape[axis]), node.split(hi, self.shape[axis])
        if self._full(box, axis + 1):
            node.starts[i:j] = [lo]
            node.children[i:j] = [writer]
        else:
            for k in range(i, j):
                node.children[k] = self._write(node.children[k], box, axis + 1, writer)
        return node
