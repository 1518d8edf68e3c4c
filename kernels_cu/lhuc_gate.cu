// SPDX-License-Identifier: Apache-2.0
//
// lhuc_gate and its gradients, element by element.
//
//     lhuc_gate         out = hidden * 2 gate, gate = 1 / (1 + exp(-logits))
//     lhuc_gate_grad    hidden_grad = grad * 2 gate
//                       logits_grad = grad * hidden * 2 gate (1 - gate)
//
// A thread takes one vector of 16 bytes, each byte is read and written once. Deterministic.
//
// Floors at 65536 x 512, float32, on a device that moves 4.3 TB/s: 403 MB, 94 us; gradient 671 MB,
// 156 us (an H100, 3.0 TB/s: 135 and 226). An exponential and a division are some 30 instructions: 1
// G, 34 us at 30 T a second.

// 2 gate and 1 - gate of a logit. exp never sees a positive number, and 1 - gate loses no digit.
struct Gate {
    real twice, rest;
    __device__ __forceinline__ explicit Gate(real logit) {
        const real decay = exp(logit < 0 ? logit : -logit), larger = 1 / (1 + decay);
        const real smaller = decay * larger;
        twice = 2 * (logit < 0 ? smaller : larger);
        rest = logit < 0 ? larger : smaller;
    }
};

extern "C" __global__ void __launch_bounds__(256)
lhuc_gate(const scalar* __restrict__ hidden, const scalar* __restrict__ logits,
          scalar* __restrict__ out, i64 size) {
    for_each_vector(size, [=](i64 i, auto length) {
        constexpr int V = decltype(length)::value;
        real hidden_v[V], logits_v[V];
        load(hidden + i, hidden_v);
        load(logits + i, logits_v);
#pragma unroll
        for (int v = 0; v < V; v++) hidden_v[v] *= Gate(logits_v[v]).twice;
        store<V>(out + i, hidden_v);
    });
}

extern "C" __global__ void __launch_bounds__(256)
lhuc_gate_grad(const scalar* __restrict__ grad, const scalar* __restrict__ hidden,
               const scalar* __restrict__ logits, scalar* __restrict__ hidden_grad,
               scalar* __restrict__ logits_grad, i64 size) {
    for_each_vector(size, [=](i64 i, auto length) {
        constexpr int V = decltype(length)::value;
        real grad_v[V], hidden_v[V], logits_v[V];
        load(grad + i, grad_v);
        load(hidden + i, hidden_v);
        load(logits + i, logits_v);
#pragma unroll
        for (int v = 0; v < V; v++) {
            const Gate gate(logits_v[v]);
            grad_v[v] *= gate.twice;
            hidden_v[v] *= grad_v[v] * gate.rest;
        }
        store<V>(hidden_grad + i, grad_v);
        store<V>(logits_grad + i, hidden_v);
    });
}
