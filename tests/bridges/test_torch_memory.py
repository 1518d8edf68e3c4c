# SPDX-License-Identifier: Apache-2.0
"""What our kernels take from torch besides tensors: its threads, and memory of their own."""

import os
import sys

import pytest

if os.environ.get("KERAS_BACKEND") != "torch":
    pytest.skip("the torch bridge needs KERAS_BACKEND=torch", allow_module_level=True)

import torch

import mlayers
from support import programs

pytestmark = pytest.mark.skipif(
    torch.__version__ < torch.torch_version.TorchVersion("2.11") or sys.platform != "linux",
    reason="torch offers its threads since 2.10 and takes memory since 2.11; looked at in /proc",
)


def test_kernels_run_on_torchs_threads():
    """No second team beside torch's, and torch.set_num_threads holds for our kernels too."""
    code = """
import os, torch, mlayers
torch.set_num_threads(2)
mlayers.set_num_threads(4)
torch.ones(4_000_000).add_(1)  # starts torch's threads
mlayers.ffm(torch.ones(1, 4), torch.ones(1, 4), 4)  # loads the bridge, which tests itself
before = len(os.listdir("/proc/self/task"))
out = mlayers.ffm(torch.ones(4096, 64), torch.ones(4096, 64), 8)
assert out.sum() == out.numel()
print(before, len(os.listdir("/proc/self/task")))
"""
    before, after = map(int, programs.output("-c", code).split())
    assert after <= before  # a thread of the test may still have been on its way out


def test_memory_of_a_large_output_is_used_again():
    left, right = torch.ones(1024, 64), torch.ones(1024, 128)  # 4 MB and more
    first = mlayers.ffm(left, right, 8)
    second = mlayers.ffm(2 * left, right, 8)
    where = {first.data_ptr(), second.data_ptr()}
    assert len(where) == 2
    assert (first == 1).all()
    assert (second == 2).all()
    view = first[10:].numpy()
    del first
    third = mlayers.ffm(3 * left, right, 8)
    assert third.data_ptr() not in where  # a view still holds the first
    assert (view == 1).all()
    del view, second
    again = [mlayers.ffm(n * left, right, 8) for n in (4, 5)]
    assert {out.data_ptr() for out in again} == where
    assert [float(out.mean()) for out in (third, *again)] == [3, 4, 5]


def test_memory_that_is_kept_is_bounded():
    """Beyond 32 MB it is the system's to take, and beyond 8 blocks it is given back."""

    def mapped():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmSize")) / 1024

    right = torch.ones(1024, 64)
    outputs = [mlayers.ffm(torch.ones(1024, 64 * n), right, 8) for n in range(1, 17)]
    assert all((out == 1).all() for out in outputs)
    before = mapped()
    while outputs:  # 4 to 32 MB each; the last 8, which are the largest, are kept
        outputs.pop(0)
    assert 60 < before - mapped() < 80
