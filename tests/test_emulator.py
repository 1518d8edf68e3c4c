# SPDX-License-Identifier: Apache-2.0
"""The emulator of CUDA kernels: right kernels give right results, wrong ones show."""

import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest

from support import emulator

pytestmark = pytest.mark.skipif(not emulator.IS_HERE, reason="the emulator needs Linux")
SOURCE = """
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_down_sync(~0u, x, step);
    return x;
}

extern "C" __global__ void __launch_bounds__(256)
scale(const float* __restrict__ x, float* __restrict__ y, long long n, double factor) {
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += stride)
        y[i] = x[i] * (float)factor;
}

// A row per block. All three barriers are needed.
extern "C" __global__ void center(const double* x, double* y, long long n) {
    __shared__ double sums[32];
    DYNAMIC_SHARED(double, row);
    for (int i = threadIdx.x; i < n; i += blockDim.x) row[i] = x[blockIdx.x * n + i];
    FIRST
    double sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += row[n - 1 - i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    SECOND
    sum = warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? sums[threadIdx.x % 32] : 0.0);
    if (threadIdx.x == 0) sums[0] = sum;
    THIRD
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[blockIdx.x * n + i] = row[i] - sums[0] / n;
}

extern "C" __global__ void neighbours(const float* x, float* y) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    FOURTH
    y[threadIdx.x] = tile[threadIdx.x ^ 1];
}
"""
ALL = "__syncthreads();"
BARRIERS = {"FIRST": ALL, "SECOND": ALL, "THIRD": ALL, "FOURTH": "__syncwarp();"}

# What a kernel does on line 2, and what is said of it. Two blocks of 64 threads, 63 shared floats.
WRONG = {
    "if (threadIdx.x < 16) __syncthreads();": "not every thread reaches: on line 2 wait 16 of 64",
    "if (threadIdx.x == 40) return;\n__syncthreads();": "on line 3 wait 63 of 64",
    "if (threadIdx.x < 16) __syncthreads();\nelse __syncthreads();": "on lines [23] and [23]",
    "if (threadIdx.x & 1) __syncwarp();\nelse __syncthreads();": "waits on line 2 for lanes",
    "__shfl_sync(threadIdx.x ? ~0u : 1u, 1, 0);\n__syncthreads();": "thread 1 .* mask 0xffffffff",
    "__syncwarp(0xffff);": "outside its own mask 0xffff, line 2",
    "__shfl_xor_sync(~0u, 1, 1, 3);": "a shuffle of width 3, line 2",
    "*(float4*)(y + threadIdx.x) = {};": "a misaligned address, line 2",
    "__shared__ float tile[64];\n*y = tile[threadIdx.x + 1];": "an index outside its array, line 3",
    "DYNAMIC_SHARED(float, tile);\ntile[threadIdx.x] = 0;": "0 bytes after its dynamic shared",
    "volatile int a[16400];\nfor (int i = 16400; i--;) *y = a[i] = 1;": "more than 65536 bytes",
}
END = "\ny[64 * blockIdx.x + threadIdx.x] = 1;"


def with_barriers(*missing: str) -> str:
    barriers = {name: "" if name in missing else call for name, call in BARRIERS.items()}
    return "\n".join(f"#define {name} {call}" for name, call in barriers.items()) + SOURCE


def kernel(body: str, parameters: str = "float* y", number: int | str = "") -> str:
    return f'extern "C" __global__ void probe{number}({parameters}) {{\n{body}\n}}'


def is_centered(source: str) -> bool:
    x = np.random.default_rng(3).standard_normal((3, 200)) + 1
    y = emulator.guarded(x.shape, "float64")
    emulator.run(source, "center", 3, 128, [x, y, 200], shared=8 * 200)
    emulator.check_guards(y)
    return np.allclose(y, x - x.mean(1, keepdims=True), rtol=0, atol=1e-12)


def are_neighbours(source: str) -> bool:
    x = np.arange(64, dtype="float32")
    y = emulator.guarded(64, "float32")
    emulator.run(source, "neighbours", 1, 64, [x, y])
    return np.array_equal(y, x.reshape(32, 2)[:, ::-1].ravel())


@pytest.fixture(params=emulator.ORDERS)
def order(request):
    with emulator.order(request.param):
        yield request.param


@pytest.fixture(params=["", " -DMLAYERS_EMULATED_UCONTEXT"], ids=["assembly", "ucontext"])
def switch(request, monkeypatch):
    monkeypatch.setenv("CXX", "g++" + request.param)


class TestRightKernels:
    @pytest.mark.parametrize(("grid", "block"), [(1, 1), (7, 96), ((2, 1), [256])])
    def test_grid_stride_and_all_kinds_of_parameters(self, order, grid, block):
        x = np.random.default_rng(1).standard_normal(1001).astype("float32")
        y = emulator.guarded(x.shape, "float32")
        emulator.run(with_barriers(), "scale", grid, block, [x, y, np.int64(x.size), 0.3])
        np.testing.assert_array_equal(y, x * np.float32(0.3))
        emulator.check_guards(y)

    @pytest.mark.usefixtures("switch")
    def test_barriers(self, order):
        assert is_centered(with_barriers())
        assert are_neighbours(with_barriers())

    def test_three_dimensions(self, order):
        body = """
    const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    y[block * blockDim.x * blockDim.y * blockDim.z + thread] = 1000 * block + thread;"""
        y = emulator.guarded((24, 30), "int32")
        emulator.run(kernel(body, "int* y"), "probe", (2, 3, 4), (5, 3, 2), [y])
        np.testing.assert_array_equal(y, 1000 * np.arange(24)[:, None] + np.arange(30))

    def test_shuffles_and_votes(self):
        i = np.arange(32)
        expected = {
            "__shfl_sync(~0u, i, 3)": 3,
            "__shfl_sync(~0u, i, i + 1, 8)": i // 8 * 8 + (i + 1) % 8,
            "__shfl_sync(i < 8 ? 0xffu : ~0xffu, i, i ^ 8)": np.where(i < 16, -1, i ^ 8),
            "__shfl_xor_sync(~0u, i, 5)": i ^ 5,
            "__shfl_xor_sync(~0u, i, 8, 8)": np.where(i & 8, i ^ 8, i),
            "__shfl_up_sync(~0u, i, 2, 4)": np.where(i % 4 < 2, i, i - 2),
            "__shfl_down_sync(~0u, i, 1, 2)": i | 1,
            "__shfl_xor_sync(~0u, i * 1e10, 1) / 1e10": i ^ 1,
            "__shfl_xor_sync(~0u, i * 10000000000ll, 1) / 10000000000ll": i ^ 1,
            "__shfl_xor_sync(~0u, i + 0.5f, 1)": i ^ 1,
            "__ballot_sync(~0u, i % 3 == 0)": 0x49249249,
            "__any_sync(~0u, i == 7)": 1,
            "__any_sync(~0u, i == 32)": 0,
            "__all_sync(~0u, i)": 0,
        }
        calls = "\n".join(f"y[{32 * n} + i] = {call};" for n, call in enumerate(expected))
        y = np.empty((len(expected), 32), "int32")
        body = f"const int i = threadIdx.x;\n{calls}"
        emulator.run(kernel(body, "int* y"), "probe", 1, 32, [y])
        for found, (call, values) in zip(y, expected.items(), strict=True):
            np.testing.assert_array_equal(found, values, err_msg=call)

    def test_groups_of_lanes_go_their_own_ways(self, order):
        body = """
    const int i = threadIdx.x, group = i / 8;
    const unsigned mask = 0xffu << 8 * group;
    int sum = 0;
    for (int n = 0; n <= group; n++) sum += __shfl_xor_sync(mask, i, 1);
    y[i] = sum;"""
        i, y = np.arange(32), np.empty(32, "int32")
        emulator.run(kernel(body, "int* y"), "probe", 1, 32, [y])
        np.testing.assert_array_equal(y, (i // 8 + 1) * (i ^ 1))

    def test_arithmetic(self):
        body = """
    const float x = threadIdx.x + 1;
    const float4 four = make_float4(rsqrtf(x), __expf(-x), fmaf(x, x, 1.f), max(x, 3));
    static_assert(sizeof(ushort4) == 8 && alignof(double2) == 16 && alignof(double4) == 16, "");
    const bool same = min(5, 7ll) == 5 && __clz(1) == 31 && __popc(7) == 3 && __ffs(8) == 4;
    y[threadIdx.x] = four.x + four.y + four.z + four.w + same + __uint_as_float(0x3f800000u);"""
        x, y = np.arange(1, 33), np.empty(32, "float32")
        emulator.run(kernel(body), "probe", 1, 32, [y])
        expected = x**-0.5 + np.exp(-x) + x * x + 1 + np.maximum(x, 3) + 2
        np.testing.assert_allclose(y, expected, rtol=1e-6)


class TestWrongKernels:
    @pytest.mark.parametrize("missing", ["FIRST", "SECOND", "THIRD"])
    def test_missing_syncthreads(self, missing):
        right = 0
        for name in emulator.ORDERS:
            with emulator.order(name):
                right += is_centered(with_barriers(missing))
        assert right < len(emulator.ORDERS)

    def test_missing_syncwarp(self, order):
        assert not are_neighbours(with_barriers("FOURTH"))

    def test_random_order_depends_on_seed_and_block(self):
        body = "y[blockIdx.x * 32 + threadIdx.x] = atomicAdd(next, 1);"
        source = kernel(body, "int* y, int* next")
        turns = np.empty((3, 2, 32), "int32")
        for seed, y in zip((1, 1, 2), turns, strict=True):
            with emulator.order("random", seed):
                emulator.run(source, "probe", 2, 32, [y, np.zeros(1, "int32")])
        turns[:, 1] -= 32
        assert (np.sort(turns) == np.arange(32)).all()
        assert (turns[0] == turns[1]).all()
        assert (turns[0] != turns[2]).any()
        assert (turns[0, 0] != turns[0, 1]).any()

    @pytest.mark.usefixtures("switch")
    @pytest.mark.parametrize("body", WRONG)
    def test_errors_end_the_launch_and_no_more(self, body, order):
        texts = [f"#line 1\n{kernel(text + END, number=n)}" for n, text in enumerate(WRONG)]
        name = f"probe{list(WRONG).index(body)}"
        y = emulator.guarded(2 * 64, "float32")
        with pytest.raises(RuntimeError, match=f"^kernel {name}, block .0, 0, 0.: .*{WRONG[body]}"):
            emulator.run("\n".join(texts), name, 2, 64, [y], shared=4 * 63)
        assert np.isnan(y[64:]).all()  # the next block did not run
        assert is_centered(with_barriers())

    @pytest.mark.parametrize(
        "memory",
        ["__shared__ float tile[32]", "float* tile = inlined()", "DYNAMIC_SHARED(float, tile)"],
    )
    def test_uninitialised_memory_is_nan(self, memory):
        inline = "__forceinline__ float* inlined() { __shared__ float tile[32]; return tile; }\n"
        # The second block, which overwrites what the first found, does not see what that left.
        body = f"{memory}; y[threadIdx.x] = tile[threadIdx.x]; tile[threadIdx.x] = 1;"
        y = np.zeros(32, "float32")
        emulator.run(inline + kernel(body), "probe", 2, 32, [y], shared=4 * 32)
        assert np.isnan(y).all()

    @pytest.mark.parametrize(("offset", "side"), [(-1, "before"), (8, "after")])
    def test_write_outside_an_array(self, offset, side):
        source = kernel("y[offset] = 0;", "double* y, long long offset")
        y = emulator.guarded((2, 4), "float64")
        assert y.ctypes.data % 16 == 0
        emulator.run(source, "probe", 1, 1, [y, 7])
        emulator.check_guards(y)
        emulator.run(source, "probe", 1, 1, [y, offset])
        with pytest.raises(AssertionError, match=f"8 bytes {side} the array"):
            emulator.check_guards(y)


class TestDriver:
    @pytest.mark.parametrize(
        ("sizes", "sentence"),
        [
            ((1, 2, 3, 4, 4, 64, 49152), None),
            ((0, 1, 1, 1, 1, 1, 0), "a grid of no blocks"),
            ((1, 1, 1, 1, 0, 1, 0), "a block of no threads"),
            ((1, 65536, 1, 1, 1, 1, 0), "more blocks"),
            ((1, 1, 1, 32, 33, 1, 0), "more threads"),
            ((1, 1, 1, 1, 1, 65, 0), "more threads"),
            ((1, 1, 1, 1, 1, 1, 49153), "more than 48 KiB"),
        ],
    )
    def test_launch(self, sizes, sentence):
        driver, y, text = emulator.driver(), np.zeros(1, "float32"), ctypes.c_char_p()
        assert emulator.launch_kernel is driver.cuLaunchKernel
        function = ctypes.c_void_p(emulator.compile(kernel("*y = 2;")).function("probe"))
        pointer = ctypes.c_void_p(y.ctypes.data)
        params = (ctypes.c_void_p * 1)(ctypes.addressof(pointer))
        code = driver.cuLaunchKernel(function, *sizes, None, params, None)
        assert (code, y[0]) == ((1, 0) if sentence else (0, 2))
        if sentence:
            assert f"kernel probe, block (0, 0, 0): {sentence}" in emulator.last_error()
            assert driver.cuGetErrorString(1, ctypes.byref(text)) == 0
            assert text.value.decode() == emulator.last_error()
            assert driver.cuGetErrorName(1, ctypes.byref(text)) == 0
            assert text.value == b"CUDA_ERROR_INVALID_VALUE"

    def test_launch_bounds(self):
        y = np.zeros(1, "float32")
        with pytest.raises(RuntimeError, match="more threads than a block may"):
            emulator.run(with_barriers(), "scale", 1, 257, [y, y, 1, 1.0])


class TestCompiler:
    def test_kernels_are_found(self):
        source = with_barriers() + '/* extern "C" __global__ void no(int* x) {} */'
        assert emulator.compile(source).kernels == ("scale", "center", "neighbours")
        assert emulator.compile(source) is emulator.compile(source)
        with pytest.raises(RuntimeError, match="no kernel 'no'"):
            emulator.compile(source).function("no")

    def test_what_the_compiler_says(self, tmp_path, monkeypatch):
        with pytest.raises(RuntimeError, match=r"kernels.cu:2:1: error: .*undeclared_thing"):
            emulator.compile(kernel("undeclared_thing = 1;"))
        with pytest.raises(RuntimeError, match="is not a pointer, a long long or a double"):
            emulator.compile(kernel("", "float* y, int n"))
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # where it is not compiled yet
        with pytest.warns(UserWarning, match="unused variable .idle"):
            emulator.compile(kernel("int idle;"))

    def test_two_processes_at_once(self, tmp_path):
        source = kernel("y[threadIdx.x] = threadIdx.x;")
        code = "import numpy; from support import emulator; y = numpy.zeros(4, 'float32');"
        code += f"emulator.run({source!r}, 'probe', 1, 4, [y]); assert list(y) == [0, 1, 2, 3]"
        paths = {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-c", code]
        both = [subprocess.Popen(command, env={**os.environ, **paths}) for _ in range(2)]
        assert [process.wait(60) for process in both] == [0, 0]
        assert [p.suffix for p in tmp_path.glob("*/*")] == [".so", ".so"]  # the driver is one
