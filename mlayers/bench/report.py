# SPDX-License-Identifier: Apache-2.0
"""Rows as a table to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def print_machine(machine: Mapping[str, Any], bandwidths: Mapping[str, float]) -> None:
    """What machine this is and what its memory does."""
    print(f"{machine['processor']}, {machine['cores']} cores, {machine['system']};", end=" ")
    print(f"kernels: {machine['isa']}, {machine['threads']} threads")
    print("memory, 128 MB, GB/s:", ", ".join(f"{k} {v:.1f}" for k, v in bandwidths.items()))


def print_gpu(gpu: Mapping[str, Any]) -> None:
    """What GPU this is."""
    print(
        f"{gpu['device']}, {gpu['memory_gb']:.0f} GB, compute capability",
        f"{gpu['compute_capability']}; driver {gpu['driver']} for CUDA {gpu['driver_cuda']};",
        f"CuPy {gpu['cupy']} with CUDA {gpu['cuda']}; TF32 is off",
    )


def print_limits(limits: Mapping[str, Any]) -> None:
    """What a framework's own calls reach on the GPU."""
    words = ", ".join(f"{name} {value:.0f}" for name, value in limits["gb_per_s"].items())
    gflops = limits["gflops"]
    product = f"{gflops:.0f} GFLOP/s" if gflops else "it has no product"
    print(f"its own limits: memory, GB/s: {words}; float32 product: {product}")


def print_header(title: str) -> None:
    """The framework that the next rows are of."""
    print(
        f"\n{title}\nmedian µs per call (half the spread from the 10th to the 90th percentile, %)"
    )


def print_overhead(found: Mapping[str, float]) -> None:
    """What a call costs on an input that takes no time."""
    words = ", ".join(f"{name} {median:.1f}" for name, median in found.items())
    print(f"per call on a tiny input, µs: {words}", flush=True)


def print_row(row: Mapping[str, Any]) -> None:
    """Two lines: what was timed, and what follows from it."""
    shape = ",".join(map(str, row["shape"]))
    print(f"{row['op']} ({shape}) {row['dtype']} {row['direction']}")
    same = row.get("same_program", {})
    times = [f"{column} {_time(time)}" for column, time in row["us"].items() if column not in same]
    times += [f"{column}: the program of {twin}" for column, twin in same.items()]
    print("   ", " | ".join(times))
    ratios = [f"{name} {value:.2f}" for name, value in row["ratio"].items() if value is not None]
    peaks = [
        f"{name} {peak / 2**20:.0f}" for name, peak in row["peak_bytes"].items() if peak is not None
    ]
    print(
        f"    ratio: {', '.join(ratios)} | {row['gb_per_s']:.1f} GB/s, {row['gflops']:.1f} GFLOP/s",
        f"| peak MB: {', '.join(peaks) or 'not known here'}",
        flush=True,
    )


def print_tower_row(row: Mapping[str, Any]) -> None:
    """A row of tower.py."""
    print(
        f"{row['op']} {row['shape']} {row['direction']}: ours {row['ours_us']:.0f},",
        f"stock layers {row['stock_us']:.0f}, ratio {row['ratio']:.2f}",
        f"({row['ratio_low']:.2f} to {row['ratio_high']:.2f})",
        f"| floor {row['floor_us']:.0f}, where the ratio is {row['ratio_floor']:.2f}",
        f"| its matrix products alone {row['products_us']:.0f}" if "products_us" in row else "",
        flush=True,
    )


def _time(timing: Mapping[str, float]) -> str:
    spread = (timing["p90"] - timing["p10"]) / 2 / timing["median"]
    return f"{timing['median']:.1f} ({100 * spread:.0f})"
