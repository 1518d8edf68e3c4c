# SPDX-License-Identifier: Apache-2.0
"""Which blocks of ffm.cu to start.

None where a row does not fit: the dot products of one row (32 fields of 64 by 32 fit, 64 by 64 do
not) are then matrix products of a size that the composition's cuBLAS is better at.
"""

from __future__ import annotations

from mlayers.kernels_cu.plan import SHARED_MEMORY, Launch, Plan, cover, vector

LEFT_FIELDS = 16  # of a thread in ffm_multiply
TILE = 4  # sums that a thread makes along each axis of a product

Shape = tuple[int, ...]
Constants = tuple[tuple[str, int], ...]


def ffm(itemsize: int, left: Shape, right: Shape, dim_size: int, int_type: str) -> Plan | None:
    """Multiply, or the dot products."""
    B, L, R, D = _sizes(left, right, dim_size)
    if int_type == "dot":
        return _dot("ffm_dot", itemsize, ("left", "right", "out"), B, L, R, D)
    if R * D >= 1 << 31:
        return None
    V = vector(itemsize, D)
    blocks = (cover(B * R * D // V, 256), cover(L, LEFT_FIELDS))
    launch = Launch("ffm_multiply", blocks, 256, ("left", "right", "out", B, L, R, D))
    return Plan((launch,), _constants(itemsize, D, R))


def ffm_grad(
    itemsize: int, grad: Shape, left: Shape, right: Shape, dim_size: int, int_type: str
) -> Plan | None:
    """The gradients of either."""
    B, L, R, D = _sizes(left, right, dim_size)
    arrays = ("grad", "left", "right", "left_grad", "right_grad")
    if int_type == "dot":
        return _dot("ffm_dot_grad", itemsize, arrays, B, L, R, D)
    V = vector(itemsize, D)
    lanes_d = min(D // V, 32)
    per_lane = _right_fields_per_lane(itemsize, D, R)
    if per_lane is None:
        return _multiply_grad_apart(itemsize, B, L, R, D)
    rows = 4 * (32 // (lanes_d * max(1, cover(R, per_lane))))  # of a block, which has 4 warps
    blocks = (cover(B, rows), cover(D // V, 32))
    launch = Launch("ffm_multiply_grad", blocks, 128, (*arrays, B, L, R, D))
    return Plan((launch,), _constants(itemsize, D, R))


def _right_fields_per_lane(itemsize: int, D: int, R: int) -> int | None:
    """How many right fields a lane keeps in its registers; None: more than there is room for."""
    V = vector(itemsize, D)
    lanes_r = 32 // min(D // V, 32)
    per_lane = 1
    while per_lane < min(R, 4) or cover(R, per_lane) > lanes_r:
        per_lane *= 2
    return per_lane if per_lane * V * max(itemsize, 4) <= 256 else None


def _multiply_grad_apart(itemsize: int, B: int, L: int, R: int, D: int) -> Plan:
    """Each gradient by itself, for right rows too wide for a warp."""
    V = vector(itemsize, D)
    launches = tuple(
        Launch(
            f"ffm_multiply_{side}_grad",
            (cover(B * fields * D // V, 256), 1),
            256,
            ("grad", other, f"{side}_grad", B, L, R, D),
        )
        for side, other, fields in (("left", "right", L), ("right", "left", R))
    )
    return Plan(launches, _constants(itemsize, D, R))


def _dot(
    kernel: str, itemsize: int, arrays: tuple[str, ...], B: int, L: int, R: int, D: int
) -> Plan | None:
    numbers = (L + R) * (D | 1)  # of a row in shared memory
    tiles = cover(L, TILE) * cover(R, TILE)
    if kernel == "ffm_dot_grad":
        numbers += L * (R | 1)
        tiles = (cover(L, TILE) + cover(R, TILE)) * cover(D, TILE)
    size = numbers * max(itemsize, 4)
    if size > SHARED_MEMORY:
        return None
    # A tile for each of 128 threads, but at most half of the memory: two blocks share an SM.
    rows = max(1, min(cover(128, max(1, tiles)), SHARED_MEMORY // 2 // max(1, size)))
    launch = Launch(kernel, (cover(B, rows), 1), 128, (*arrays, B, L, R, D, rows), rows * size)
    return Plan((launch,), _constants(itemsize, D, R))


def _sizes(left: Shape, right: Shape, D: int) -> tuple[int, int, int, int]:
    return left[0], left[1] // D, right[1] // D, D


def _constants(itemsize: int, D: int, R: int) -> Constants:
    """The same for all kernels, which are compiled together."""
    return (
        ("VEC", vector(itemsize, D)),
        ("VEC_R", vector(itemsize, R)),
        ("PER_LANE", _right_fields_per_lane(itemsize, D, R) or 1),
    )
