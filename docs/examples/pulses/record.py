"""Makes recording.safetensors, three tones in noise and hum, and golden/pulses.safetensors, what numpy finds in it.

    python docs/examples/pulses/record.py

The second is written independently of the ops: in f64, one cell after another.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).parent
RATE, MOST = 8000.0, 8
TONES = ((0.20, 0.07, 1003.0, 0.9), (0.45, 0.05, 2310.0, 0.7), (0.80, 0.06, 1711.0, 1.2))
"""When each begins and how long it lasts, in seconds; its frequency, and its amplitude."""


def recording(samples: int = 8192, seed: int = 1) -> np.ndarray:
    """f32[samples]: tones with soft ends, noise, and hum of 50 Hz."""
    seconds = np.arange(samples) / RATE
    sound = 0.05 * np.random.default_rng(seed).standard_normal(samples) + 0.4 * np.sin(2 * np.pi * 50 * seconds)
    for start, length, frequency, amplitude in TONES:
        inside = np.clip((seconds - start) / length, 0, 1)
        sound += amplitude * np.sin(np.pi * inside) ** 2 * np.sin(2 * np.pi * frequency * seconds)
    return sound.astype(np.float32)


def pulses_in(
    sound: np.ndarray,
    *,
    taps: Sequence[float] = (0.5, -0.5),
    width: int = 256,
    hop: int = 128,
    factor: float = 40.0,
    most: int = MOST,
    finer: int = 16,
    is_hann: bool = True,
) -> np.ndarray:
    """f32[found, 3]: second, frequency and power of each, the strongest first; the names are those of layer.yaml."""
    filtered = np.convolve(sound.astype(np.float64), taps)[: len(sound)]
    weights = np.hanning(width) if is_hann else np.ones(width)
    starts = range(0, len(sound) - width + 1, hop)
    power = np.array([np.abs(np.fft.rfft(filtered[s : s + width] * weights)) ** 2 for s in starts])
    floor = np.median(power, axis=0)
    cells = []
    for (frame, bin_), strength in np.ndenumerate(power):
        around = power[max(frame - 1, 0) : frame + 2, max(bin_ - 1, 0) : bin_ + 2]
        if strength > factor * floor[bin_] and strength == around.max():
            cells.append((strength, frame, bin_))
    found = []
    for _, frame, bin_ in sorted(cells, reverse=True)[:most]:
        weighted = filtered[frame * hop : frame * hop + width] * weights
        bins = bin_ + np.arange(-finer, finer + 1) / finer
        fine = [abs(np.sum(weighted * np.exp(-2j * np.pi * b * np.arange(width) / width))) ** 2 for b in bins]
        at = int(np.argmax(fine[1:-1])) + 1
        curve = np.polyfit(bins[at - 1 : at + 2], fine[at - 1 : at + 2], 2)
        found.append((frame * hop / RATE, -curve[1] / (2 * curve[0]) * RATE / width, fine[at]))
    return np.array(found, dtype=np.float32).reshape(-1, 3)


def main() -> None:
    sound = recording()
    found = pulses_in(sound)
    table = np.zeros((MOST, 3), dtype=np.float32)
    table[: len(found)] = found
    (HERE / "golden").mkdir(exist_ok=True)
    save_file({"signal": sound}, HERE / "recording.safetensors")
    save_file({"pulses": table, "count": np.array([len(found)], dtype=np.int32)}, HERE / "golden" / "pulses.safetensors")


if __name__ == "__main__":
    main()
