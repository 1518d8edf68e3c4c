// SPDX-License-Identifier: Apache-2.0
//
// fid_counter and the rule that stands for its gradient, element by element.
//
//     fid_counter         out = min(counter + step, threshold), a NaN stays one
//     fid_counter_grad    -step where counter < threshold, else 0
//
// A thread takes one vector of 16 bytes, each byte is read and written once. Deterministic.
//
// Floors for 100 million counters, float32, on a device that moves 4.3 TB/s: 800 MB, 186 us, either
// way (an H100, 3.0 TB/s: 268).

extern "C" __global__ void __launch_bounds__(256)
fid_counter(const scalar* __restrict__ counter, scalar* __restrict__ out, i64 size,
            double counter_threshold, double step) {
    const real threshold = (real)counter_threshold, one = (real)step;
    for_each_vector(size, [=](i64 i, auto length) {
        constexpr int V = decltype(length)::value;
        real counts[V];
        load(counter + i, counts);
#pragma unroll
        for (int v = 0; v < V; v++) {
            const real next = counts[v] + one;
            counts[v] = next > threshold ? threshold : next;
        }
        store<V>(out + i, counts);
    });
}

extern "C" __global__ void __launch_bounds__(256)
fid_counter_grad(const scalar* __restrict__ counter, scalar* __restrict__ counter_grad, i64 size,
                 double counter_threshold, double step) {
    const real threshold = (real)counter_threshold, one = (real)step;
    for_each_vector(size, [=](i64 i, auto length) {
        constexpr int V = decltype(length)::value;
        real counts[V];
        load(counter + i, counts);
#pragma unroll
        for (int v = 0; v < V; v++) counts[v] = counts[v] < threshold ? -one : real(0);
        store<V>(counter_grad + i, counts);
    });
}
