// SPDX-License-Identifier: Apache-2.0
//
// out = scale * x, the kernel that a bridge must compute right before it is trusted with an op.

extern "C" __global__ void __launch_bounds__(256)
probe(const scalar* __restrict__ x, scalar* __restrict__ out, i64 size, i64 scale) {
    for_each_vector(size, [=](i64 i, auto length) {
        constexpr int V = decltype(length)::value;
        real numbers[V];
        load(x + i, numbers);
#pragma unroll
        for (int v = 0; v < V; v++) numbers[v] *= (real)scale;
        store<V>(out + i, numbers);
    });
}
