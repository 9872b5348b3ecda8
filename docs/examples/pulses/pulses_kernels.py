"""What runs the ops of pulses_ops.py: imported when the first of them runs, so that planning needs no torch."""

import math

import torch


def fir(x, *, y, taps):
    y.zero_()
    for delay, tap in enumerate(taps):
        y[delay:] += tap * x[: x.shape[0] - delay]


def cut(x, *, frames, hop, window):
    count, width = frames.shape
    torch.mul(x.unfold(0, width, hop)[:count], _weights(window, x, width), out=frames)


def _weights(window, x, width):
    return torch.hann_window(width, periodic=False, device=x.device) if window == "hann" else torch.ones(width, device=x.device)


def spectrum(frames, *, power):
    power.copy_(torch.fft.rfft(frames).abs().square())


def noise_floor(power, *, floor):
    floor.copy_(power.quantile(0.5, dim=0))


def find(power, floor, *, found, count, pulses, factor, rate, hop, width):
    around = torch.nn.functional.max_pool2d(power[None], 3, stride=1, padding=1)[0]
    frames, bins = torch.nonzero((power > factor * floor) & (power == around), as_tuple=True)
    order = power[frames, bins].argsort(descending=True, stable=True)[: found.shape[0]]
    frames, bins = frames[order], bins[order]
    for made in (found, count, pulses):
        made.zero_()
    count.fill_(len(order))
    found[: len(order)] = torch.stack((frames, bins), 1)
    pulses[: len(order)] = torch.stack((frames * (hop / rate), bins * (rate / width), power[frames, bins]), 1)


def zoom(x, found, *, fine, d, hop, width, window):
    start, bin_ = found[d, 0] * hop, found[d, 1]
    steps = torch.linspace(-1, 1, fine.shape[0], device=x.device, dtype=torch.float64)
    samples = torch.arange(width, device=x.device)
    turns = torch.outer(bin_ + steps, samples / width)
    weighted = x[start + samples] * _weights(window, x, width)
    fine.copy_((torch.exp(-2j * math.pi * turns) @ weighted.to(torch.complex128)).abs().square())


def refine(fine, *, pulse, rate, width):
    at = int(fine[1:-1].argmax()) + 1
    low, top, high = fine[at - 1 : at + 2].double()
    summit = at + float((low - high) / (2 * (low - 2 * top + high)))
    middle = (fine.shape[0] - 1) / 2
    pulse[1] += (summit - middle) / middle * rate / width
    pulse[2] = top
