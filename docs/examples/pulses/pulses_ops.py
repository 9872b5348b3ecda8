"""The ops of the pipeline: N samples, F windows of W samples, B = W // 2 + 1 bins, M pulses.

What runs them is in pulses_kernels.py.
"""

from math import log2

from runner import Cost, OpRegistry

ops = OpRegistry(kernels="pulses_kernels")


def _transform(call):
    """An FFT of each window: 2.5 W log2 W operations."""
    frames, width = call.operands["frames"].shape
    return Cost(flops=int(2.5 * frames * width * log2(width)), bytes=call.moved_bytes)


def _filter(call):
    return Cost(flops=2 * len(call.attrs["taps"]) * call.operands["x"].shape[0], bytes=call.moved_bytes)


def _windows_fit(call):
    frames, width = call.operands["frames"].shape
    needed = (frames - 1) * call.attrs["hop"] + width
    have = call.operands["x"].shape[0]
    return None if needed <= have else f"{frames} windows need {needed} samples, 'x' has {have}"


ops.declare(
    "fir",
    "x: f32[N] -> y: f32[N]",
    core="AIV",
    params={"taps": "taps"},
    cost=_filter,
    source="numpy.convolve",
    doc="Each sample and those before it, weighted by `taps`; before the first one there is silence.",
)

ops.declare(
    "cut",
    "x: f32[N] -> frames: f32[F, W]",
    core="AIV",
    params={"hop": "hop", "window": "window"},
    check=_windows_fit,
    source="numpy.hanning",
    doc="Windows that begin every `hop` samples, weighted by a `hann` window or by `none`.",
)

ops.declare(
    "spectrum",
    "frames: f32[F, W] -> power: f32[F, W // 2 + 1]",
    core="MIX",
    cost=_transform,
    source="numpy.fft.rfft",
    doc="The power of each window in every bin, from 0 to half of the sampling rate.",
)

ops.declare(
    "noise_floor",
    "power: f32[F, B] -> floor: f32[B]",
    core="AIV",
    source="numpy.median",
    doc="The median of each bin over all windows.",
)

ops.declare(
    "find",
    "power: f32[F, B], floor: f32[B] -> found: i32[M, 2], count: i32[1], pulses: f32[M, 3]",
    core="AIV",
    params={"factor": "factor", "rate": "rate", "hop": "hop", "width": "width"},
    doc="""Window and bin of every cell that is `factor` above the floor and stronger than the eight around it, strongest first.

    `count` says how many; `pulses` has the second at which each window begins, the frequency of the bin and the power. What is
    left is zero.""",
)

ops.declare(
    "zoom",
    "x: f32[N], found: i32[M, 2] -> fine: f32[Z]",
    core="AIV",
    params={"d": 0, "hop": "hop", "width": "width", "window": "window"},
    doc="The power of pulse `d` at Z frequencies, from the bin below its own to the bin above.",
)

ops.declare(
    "refine",
    "fine: f32[Z] -> &pulse: f32[3]",
    core="AIV",
    params={"rate": "rate", "width": "width"},
    doc="Moves the pulse's frequency to the summit of the parabola through the strongest of `fine` and its neighbours.",
)
