// SPDX-License-Identifier: Apache-2.0
//
// ffm and its gradients. Axes: b batch, l left field, r right field, d dimension.
//
//     multiply   out[b, l, r, d] = left[b, l, d] * right[b, r, d]
//     dot        out[b, l, r] = sum over d of the same
//
// Deterministic: no atomics, every sum in an order that depends on the shapes alone.
//
// Floors at B 65536, L = R = 16, D 16, float32, on a device that moves 4.3 TB/s and computes 60
// TFLOPS in float32; what bounds a kernel is the larger one. What an H100 takes, which moves 3.0
// TB/s, in float32 and in bfloat16 (half the bytes, the same operations), beside it:
//
//                            bytes                            operations     H100, us
//     ffm_multiply           1.07 GB out + 0.13 in, 281 us    0.27 G, 4 us   435, 225
//     ffm_multiply_grad      1.07 GB + 0.27, 312 us           1.07 G, 18 us  462, 264
//     .._left_, _right_grad  2 x 1.07 GB + 0.27, 562 us       1.07 G, 18 us
//     ffm_dot                0.07 GB out + 0.13 in, 47 us     0.54 G, 9 us   90, 58
//     ffm_dot_grad           0.07 GB + 0.27, 78 us            1.07 G, 18 us  170, 142
//
// multiply is at the memory's limit. dot is not: of its instructions, 460 a row of the batch and
// 1600 in the gradient (ncu), 128 and 256 multiply; the others read shared memory number by number
// and divide indices. Reading it by quads, with the sizes compiled in, would be the next step.
//
// Compiled in: VEC, elements of a vector of at most 16 bytes, divides D; PER_LANE, right fields of
// a lane in ffm_multiply_grad; VEC_R divides R.

// Blocks of ffm_multiply_grad on an SM, for which the compiler saves registers: on an H100 in
// bfloat16 4 take 264 us, 3 297 and 5 591; in float32 it makes no difference.
constexpr int GRAD_BLOCKS = sizeof(real) == 8 ? 2 : 4;

// --- multiply: a thread takes one vector of a right row, and 16 left fields one by one ---

constexpr int LEFT_FIELDS = 16;  // blockIdx.y takes the next

extern "C" __global__ void __launch_bounds__(256)
ffm_multiply(const scalar* __restrict__ left, const scalar* __restrict__ right,
             scalar* __restrict__ out, i64 B, i64 L, i64 R, i64 D) {
    const i64 width = R * D / VEC;  // of a right row, in vectors
    const i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x;
    if (i >= B * width) return;
    const i64 b = quotient(i, width);
    const int m = (int)(i - b * width);
    const int d = m % (int)(D / VEC) * VEC;
    const i64 first = blockIdx.y * (i64)LEFT_FIELDS;
    const i64 last = first + LEFT_FIELDS < L ? first + LEFT_FIELDS : L;

    real right_d[VEC];
    load(right + i * VEC, right_d);
#pragma unroll 4
    for (i64 l = first; l < last; l++) {
        real left_d[VEC], product[VEC];
        load(left + (b * L + l) * D + d, left_d);  // the same for many lanes: from the L1 cache
#pragma unroll
        for (int v = 0; v < VEC; v++) product[v] = left_d[v] * right_d[v];
        store<VEC, true>(out + ((b * L + l) * width + m) * VEC, product);
    }
}

// --- gradient of multiply: the upstream is read once, 16 bytes a lane, and makes both sums ---
//
// Lanes of a warp, for D / VEC = 4 vectors in a field and 4 lanes across the right fields:
//
//     lane   0  1  2  3 | 4  5  6  7 | 8  9 10 11 |12 13 14 15 |16 ... the next row of the batch
//     d      0  1  2  3 | 0  1  2  3 | 0  1  2  3 | 0  1  2  3 |
//     r      0, 4, 8..  | 1, 5, 9..  | 2, 6, 10.. | 3, 7, 11.. |      PER_LANE of them each
//
// Over l a lane sums the gradient of its right fields in registers. The gradient of a left field is
// a sum over r: first in the lane, then by shuffles from the lanes with the same d.

extern "C" __global__ void __launch_bounds__(128, GRAD_BLOCKS)
ffm_multiply_grad(const scalar* __restrict__ grad, const scalar* __restrict__ left,
                  const scalar* __restrict__ right, scalar* __restrict__ left_grad,
                  scalar* __restrict__ right_grad, i64 B, i64 L, i64 R, i64 D) {
    const int vectors = (int)(D / VEC);
    const int lanes_d = at_most(vectors, 32);  // blockIdx.y takes the next 32
    const int lanes_r = R ? parts((int)R, PER_LANE) : 1;
    const int group = lanes_d * lanes_r;  // lanes of a row, 32 at most
    const int rows = 32 / group;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int r0 = lane % group / lanes_d;
    const int d = (blockIdx.y * 32 + lane % lanes_d) * VEC;
    const i64 b = (blockIdx.x * (i64)(blockDim.x / 32) + warp) * rows + lane / group;
    const bool is_active = lane / group < rows && b < B && d < D;
    int halves = 1;
    while (halves < lanes_r) halves *= 2;

    real right_rd[PER_LANE][VEC] = {}, right_sum_rd[PER_LANE][VEC] = {};
#pragma unroll
    for (int i = 0; i < PER_LANE; i++)
        if (is_active && r0 + i * lanes_r < R)
            load(right + (b * R + r0 + i * lanes_r) * D + d, right_rd[i]);

    struct Fields { pack<VEC> left, grad[PER_LANE]; };
    const auto fetch = [&](i64 l) {  // on its way while the fields before are computed
        Fields fields = {};
        if (is_active && l < L) {
            fields.left = take<VEC>(left + (b * L + l) * D + d);
#pragma unroll
            for (int i = 0; i < PER_LANE; i++)
                if (r0 + i * lanes_r < R)
                    fields.grad[i] =
                        take<VEC>(grad + ((b * L + l) * R + r0 + i * lanes_r) * D + d);
        }
        return fields;
    };
    Fields next = fetch(0);
    for (i64 l = 0; l < L; l++) {
        const Fields now = next;
        next = fetch(l + 1);
        real left_d[VEC], left_sum_d[VEC] = {};
        widen(now.left, left_d);
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            real grad_d[VEC];
            widen(now.grad[i], grad_d);
#pragma unroll
            for (int v = 0; v < VEC; v++) {
                right_sum_rd[i][v] += grad_d[v] * left_d[v];
                left_sum_d[v] += grad_d[v] * right_rd[i][v];
            }
        }
        for (int step = halves / 2; step > 0; step /= 2)
#pragma unroll
            for (int v = 0; v < VEC; v++) {
                const real other = __shfl_down_sync(~0u, left_sum_d[v], step * lanes_d);
                if (r0 + step < lanes_r) left_sum_d[v] += other;
            }
        if (is_active && r0 == 0) store<VEC>(left_grad + (b * L + l) * D + d, left_sum_d);
    }
#pragma unroll
    for (int i = 0; i < PER_LANE; i++)
        if (is_active && r0 + i * lanes_r < R)
            store<VEC>(right_grad + (b * R + r0 + i * lanes_r) * D + d, right_sum_rd[i]);
}

// Where R * D is too wide for the lanes of a warp: a thread takes one vector of one gradient, and
// the upstream is read twice. `sums` left fields are summed over `terms` right fields, or the other
// way round; in the upstream a sum's terms are `term_step` vectors apart, sums `sum_step`.
__device__ void multiply_grad_of(const scalar* grad, const scalar* other, scalar* result, i64 B,
                                 i64 sums, i64 terms, i64 sum_step, i64 term_step, i64 D) {
    const i64 vectors = D / VEC;
    const i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x;
    if (i >= B * sums * vectors) return;
    const i64 row = quotient(i, vectors), b = quotient(row, sums);
    const i64 d = i - row * vectors;
    const i64 begin = b * sums * terms * vectors + (row - b * sums) * sum_step + d;
    real sum_d[VEC] = {};
#pragma unroll 4
    for (i64 t = 0; t < terms; t++) {
        real grad_d[VEC], other_d[VEC];
        load(grad + (begin + t * term_step) * VEC, grad_d);
        load(other + ((b * terms + t) * vectors + d) * VEC, other_d);
#pragma unroll
        for (int v = 0; v < VEC; v++) sum_d[v] += grad_d[v] * other_d[v];
    }
    store<VEC>(result + i * VEC, sum_d);
}

extern "C" __global__ void __launch_bounds__(256)
ffm_multiply_left_grad(const scalar* __restrict__ grad, const scalar* __restrict__ right,
                       scalar* __restrict__ left_grad, i64 B, i64 L, i64 R, i64 D) {
    multiply_grad_of(grad, right, left_grad, B, L, R, R * (D / VEC), D / VEC, D);
}

extern "C" __global__ void __launch_bounds__(256)
ffm_multiply_right_grad(const scalar* __restrict__ grad, const scalar* __restrict__ left,
                        scalar* __restrict__ right_grad, i64 B, i64 L, i64 R, i64 D) {
    multiply_grad_of(grad, left, right_grad, B, R, L, D / VEC, R * (D / VEC), D);
}

// --- dot and its gradient: a block lays some rows in shared memory, a thread makes 4 x 4 sums ---
//
// In shared memory a field is D | 1 apart from the next: an odd distance, so that lanes that read
// the same d of neighbouring fields read from different banks.

constexpr int TILE = 4;

// Copies fields of `size` elements, V dividing it, to where they are `size | 1` apart.
template <int V>
__device__ void lay_down(const scalar* from, real* to, int fields, int size) {
#pragma unroll 4
    for (int i = threadIdx.x * V; i < fields * size; i += blockDim.x * V) {
        real numbers[V];
        load(from + i, numbers);
        const int field = i / size;
#pragma unroll
        for (int v = 0; v < V; v++) to[field * (size | 1) + i - field * size + v] = numbers[v];
    }
}

// out[i, j] = sum over k < K of a[i, k] b[k, j], for the 4 x 4 sums from i0, j0 on; in `a` and `b`
// one step along an axis is as long as the number named after it. V divides J.
template <int V>
__device__ void make_tile(const real* a, int a_i, int a_k, const real* b, int b_k, int b_j,
                          scalar* out, int i0, int j0, int I, int J, int K) {
    real sum[TILE][TILE] = {};
#pragma unroll 4
    for (int k = 0; k < K; k++) {
        real a_of[TILE], b_of[TILE];
#pragma unroll
        for (int t = 0; t < TILE; t++) {  // past the edge the last is computed again, and dropped
            a_of[t] = a[at_most(i0 + t, I - 1) * a_i + k * a_k];
            b_of[t] = b[k * b_k + at_most(j0 + t, J - 1) * b_j];
        }
#pragma unroll
        for (int x = 0; x < TILE; x++)
#pragma unroll
            for (int y = 0; y < TILE; y++) sum[x][y] += a_of[x] * b_of[y];
    }
#pragma unroll
    for (int x = 0; x < TILE; x++)
#pragma unroll
        for (int y = 0; y < TILE; y += V)
            if (i0 + x < I && j0 + y < J) store<V>(out + (i64)(i0 + x) * J + j0 + y, sum[x] + y);
}

constexpr int PACK_D = VEC < TILE ? VEC : TILE, PACK_R = VEC_R < TILE ? VEC_R : TILE;

extern "C" __global__ void __launch_bounds__(128, 5)
ffm_dot(const scalar* __restrict__ left, const scalar* __restrict__ right,
        scalar* __restrict__ out, i64 B, i64 fields_l, i64 fields_r, i64 dim, i64 rows) {
    DYNAMIC_SHARED(real, memory);
    const int L = (int)fields_l, R = (int)fields_r, D = (int)dim, stride = D | 1;
    const i64 first = blockIdx.x * rows;
    const int here = (int)(first + rows < B ? rows : B - first);
    real* left_rows = memory;
    real* right_rows = memory + rows * L * stride;
    lay_down<VEC>(left + first * L * D, left_rows, here * L, D);
    lay_down<VEC>(right + first * R * D, right_rows, here * R, D);
    __syncthreads();
    const int across = parts(R, TILE), tiles = parts(L, TILE) * across;
    for (int t = threadIdx.x; t < here * tiles; t += blockDim.x) {
        const int row = t / tiles, tile = t - row * tiles;
        make_tile<PACK_R>(left_rows + row * L * stride, stride, 1, right_rows + row * R * stride, 1,
                          stride, out + (first + row) * L * R, tile / across * TILE,
                          tile % across * TILE, L, R, D);
    }
}

extern "C" __global__ void __launch_bounds__(128, 5)
ffm_dot_grad(const scalar* __restrict__ grad, const scalar* __restrict__ left,
             const scalar* __restrict__ right, scalar* __restrict__ left_grad,
             scalar* __restrict__ right_grad, i64 B, i64 fields_l, i64 fields_r, i64 dim,
             i64 rows) {
    DYNAMIC_SHARED(real, memory);
    const int L = (int)fields_l, R = (int)fields_r, D = (int)dim, stride = D | 1;
    const i64 first = blockIdx.x * rows;
    const int here = (int)(first + rows < B ? rows : B - first);
    real* left_rows = memory;
    real* right_rows = left_rows + rows * L * stride;
    real* grad_rows = right_rows + rows * R * stride;
    lay_down<VEC>(left + first * L * D, left_rows, here * L, D);
    lay_down<VEC>(right + first * R * D, right_rows, here * R, D);
    lay_down<VEC_R>(grad + first * L * R, grad_rows, here * L, R);
    __syncthreads();
    const int across = parts(D, TILE), of_left = parts(L, TILE) * across;
    const int tiles = of_left + parts(R, TILE) * across;
    for (int t = threadIdx.x; t < here * tiles; t += blockDim.x) {
        const int row = t / tiles, tile = t - row * tiles;
        const real* upstream = grad_rows + row * L * (R | 1);
        if (tile < of_left)
            make_tile<PACK_D>(upstream, R | 1, 1, right_rows + row * R * stride, stride, 1,
                              left_grad + (first + row) * L * D, tile / across * TILE,
                              tile % across * TILE, L, D, R);
        else
            make_tile<PACK_D>(upstream, 1, R | 1, left_rows + row * L * stride, stride, 1,
                              right_grad + (first + row) * R * D, (tile - of_left) / across * TILE,
                              (tile - of_left) % across * TILE, R, D, L);
    }
}
