# SPDX-License-Identifier: Apache-2.0
"""Calls timed in turns, so that a busy machine disturbs all of them alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

BURST = (
    1e-2  # seconds: what a program calls, it calls again; right after others the caches are theirs
)
TRIES = 5  # before the bursts, to find how many calls fill one


@dataclass(frozen=True)
class Timing:
    """Microseconds per call: the median, and between what 8 of 10 bursts lay."""

    median: float
    p10: float
    p90: float


def interleave(
    calls: Mapping[str, Callable[[], Any]],
    seconds: float,
    warm_up: int = 3,
    finish: Callable[[Any], None] | None = None,
) -> dict[str, Timing]:
    """Time calls in turns for about `seconds` in all.

    Each round has its own order, the same in every run: a call that leaves memory to the system, or
    takes another's out of the caches, is not always followed by the same one.

    Args:
        calls: functions without arguments by name. Without `finish`, each waits for its own result.
        seconds: how long to go on, in all; every call gets 7 bursts at least.
        warm_up: how often each is called before.
        finish: for calls that only queue work on a device: given the result of the call before,
            returns when the device has done all that is queued. It is called once a burst, before
            the clock is stopped, and before it is started.

    Returns:
        A `Timing` for each.
    """
    repeats = {}
    for name, call in calls.items():
        _burst(call, warm_up, finish)
        repeats[name] = max(1, int(BURST / max(_fastest(call, finish), 1e-7)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order, shuffle = list(calls), random.Random(0).shuffle
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(samples.values()))) < 7:
        shuffle(order)
        for name in order:
            _burst(calls[name], 1, finish)
            samples[name].append(_seconds(calls[name], repeats[name], finish) / repeats[name] * 1e6)
    return {
        name: Timing(*map(float, np.percentile(times, (50, 10, 90))))
        for name, times in samples.items()
    }


def _fastest(call: Callable[[], Any], finish: Callable[[Any], None] | None) -> float:
    """Seconds, of a few calls.

    By one that was disturbed, or waited for fresh memory, a burst would be short, and its first
    calls, which take longer, a large part of it.
    """
    found: list[float] = []
    while len(found) < TRIES and sum(found) < BURST:
        found.append(_seconds(call, 1, finish))
    return min(found)


def _seconds(call: Callable[[], Any], times: int, finish: Callable[[Any], None] | None) -> float:
    start = time.perf_counter()
    _burst(call, times, finish)
    return time.perf_counter() - start


def _burst(call: Callable[[], Any], times: int, finish: Callable[[Any], None] | None) -> None:
    for _ in range(times if finish is None else times - 1):
        call()  # its result is dropped before the next call, which may take the same memory
    if finish is not None:
        finish(call())
