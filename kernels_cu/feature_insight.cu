// SPDX-License-Identifier: Apache-2.0
//
// feature_insight and its gradients. Axes: b batch, n input column, s segment, k output column.
//
//     feature_insight         product[b, s, k] = sum over n in segment s of x[b, n] w[n, k]
//                             out[b, s, k] = product, or out[b, s] = sum over k of its squares
//     feature_insight_grad    x_grad[b, n] = sum over k of d[b, s, k] w[n, k]
//                             w_grad[n, k] = sum over b of d[b, s, k] x[b, n]
//                             d[b, s, k] = grad[b, s, k], or 2 grad[b, s] product[b, s, k]
//
// Deterministic: no atomics. feature_insight_sum adds up the parts of blocks (there 8 MB, 2 us).
// Floors at B 65536, 64 segments of 16, K 64, float32, on a device that moves 4.3 TB/s and computes
// 60 TFLOPS in float32 (no tensor cores, which would round it; half types have half the bytes).
// Per 32 multiply-adds a lane reads shared memory 4 times forward, 4 for w_grad, 6 for x_grad.
//
//                           bytes                           operations      H100 (3.0 TB/s), us
//     feature_insight       1.07 GB out + 0.27 in, 312 us   8.6 G, 143 us   652, bfloat16 464
//       squares             0.27 GB in + 0.02 out, 67 us    8.6 G, 143 us   397, 372
//     feature_insight_grad  1.07 GB + 0.54, 375 us          17.2 G, 286 us  1060, 940
//       squares             0.54 GB + 0.02, 130 us          25.8 G, 430 us  1266, 1202
//
// Compiled in: AGGREGATE, whether squares are summed; VEC, elements of a vector, divides K; WIDTH,
// output columns of a block in the forward; DEPTH, input columns in the gradient; SIZES, FIRSTS of
// each segment, its width and first column; TILES, {segment, first column in it}.

constexpr int THREADS = 128, PACK = VEC < 4 ? VEC : 4;
// Blocks on an SM, for which the compiler saves registers. On an H100 4 took 706 us forward, 6 662;
// in the gradient 2 took 1236, 4 1057 and 5 1233.
constexpr bool DOUBLE = sizeof(real) == 8;
constexpr int SIDE_BY_SIDE = DOUBLE ? 2 : 6, GRAD_SIDE_BY_SIDE = DOUBLE ? 2 : 4;

__constant__ const int sizes[] = {SIZES}, firsts[] = {FIRSTS};
constexpr i64 SEGMENTS = sizeof(sizes) / sizeof(int);
struct Tile { int segment, offset; };
__constant__ const Tile tiles[] = {TILES};

// Rows and columns of a matrix in shared memory, zeros where the matrix in memory ends. V elements
// at once, V dividing `stride`, the distance of rows there.
template <int V, int COLUMNS, int AHEAD>
__device__ void lay_down(const scalar* from, i64 stride, real (*to)[AHEAD], int rows, int has_rows,
                         i64 has_columns) {
    for (int i = threadIdx.x; i < rows * (COLUMNS / V); i += THREADS) {
        const int row = i / (COLUMNS / V), column = i % (COLUMNS / V) * V;
        real numbers[V] = {};
        if (row < has_rows && column < has_columns) load(from + row * stride + column, numbers);
#pragma unroll
        for (int v = 0; v < V; v++) to[row][column + v] = numbers[v];
    }
}

// Four columns of a row of which `has_columns` exist.
__device__ void store_four(scalar* to, const real (&four)[4], i64 has_columns) {
#pragma unroll
    for (int column = 0; column < 4; column += PACK)
        if (column < has_columns) store<PACK>(to + column, four + column);
}

// --- forward: a block makes HEIGHT x WIDTH sums, a thread 8 rows x 4 columns of them ---

namespace forward {

constexpr int ACROSS = WIDTH / 4, ROWS = 8, HEIGHT = THREADS / ACROSS * ROWS;
constexpr int STEP = 16;  // input columns in shared memory at once

struct Memory {  // x is turned, so that a thread reads 8 rows as two quads
    alignas(16) real x_nb[STEP][HEIGHT + 4], w_nk[STEP][WIDTH + 4];
};

__device__ void run(Memory& shared, const scalar* x, const scalar* w, scalar* out, i64 B, i64 N,
                    i64 K) {
    const i64 widths = AGGREGATE ? 1 : (K + WIDTH - 1) / WIDTH;
    const i64 column_tile = blockIdx.x % (SEGMENTS * widths);
    const int segment = (int)(column_tile / widths), size = sizes[segment];
    const i64 first_b = blockIdx.x / (SEGMENTS * widths) * HEIGHT;
    const int has_rows = (int)(B - first_b < HEIGHT ? B - first_b : HEIGHT);
    const scalar* x_of = x + first_b * N + firsts[segment];
    const scalar* w_of = w + firsts[segment] * K;
    const int k = threadIdx.x % ACROSS * 4, b = threadIdx.x / ACROSS * ROWS;
    real total[ROWS] = {};

    for (i64 k0 = AGGREGATE ? 0 : column_tile % widths * WIDTH; k0 < K; k0 += WIDTH) {
        real sum[ROWS][4] = {};
        for (int n0 = 0; n0 < size; n0 += STEP) {
            const int has_n = at_most(size - n0, STEP);
            __syncthreads();  // all have read what lies there
            lay_down<VEC, WIDTH>(w_of + n0 * K + k0, K, shared.w_nk, STEP, has_n, K - k0);
            for (int i = threadIdx.x; i < HEIGHT * STEP; i += THREADS) {
                const int n = i % STEP, row = i / STEP;
                const bool exists = n < has_n && row < has_rows;
                shared.x_nb[n][row] = exists ? widen(x_of[row * N + n0 + n]) : real(0);
            }
            __syncthreads();
#pragma unroll 4
            for (int n = 0; n < has_n; n++) {
                const quad w_k = load_quad(&shared.w_nk[n][k]);
                const real* x_n = shared.x_nb[n];
                const quad x_b[2] = {load_quad(x_n + b), load_quad(x_n + b + 4)};
#pragma unroll
                for (int row = 0; row < ROWS; row++)
#pragma unroll
                    for (int c = 0; c < 4; c++) sum[row][c] += x_b[row / 4].at[row % 4] * w_k.at[c];
            }
        }
        if constexpr (AGGREGATE) {
#pragma unroll
            for (int row = 0; row < ROWS; row++)
#pragma unroll
                for (int c = 0; c < 4; c++) total[row] += sum[row][c] * sum[row][c];
        } else {
#pragma unroll
            for (int row = 0; row < ROWS; row++)
                if (b + row < has_rows)
                    store_four(out + ((first_b + b + row) * SEGMENTS + segment) * K + k0 + k,
                                     sum[row], K - k0 - k);
            return;
        }
    }
#pragma unroll
    for (int row = 0; row < ROWS; row++) {  // over the lanes that share a row; they are neighbours
        for (int step = ACROSS / 2; step > 0; step /= 2)
            total[row] += __shfl_xor_sync(~0u, total[row], step);
        if (k == 0 && b + row < has_rows)
            out[(first_b + b + row) * SEGMENTS + segment] = narrow(total[row]);
    }
}

}  // namespace forward

extern "C" __global__ void __launch_bounds__(THREADS, SIDE_BY_SIDE)
feature_insight(const scalar* __restrict__ x, const scalar* __restrict__ w,
                scalar* __restrict__ out, i64 B, i64 N, i64 K) {
    __shared__ forward::Memory shared;
    forward::run(shared, x, w, out, B, N, K);
}

// --- gradient: a block takes DEPTH columns of a segment, 64 output columns and a chunk of rows ---
//
// For HEIGHT rows at a time, d lies in shared memory for both sums: the upstream is read once.
// w_grad stays in registers to the end of the chunk, each warp's for its own rows.
// Where there are several chunks or several tiles of k, what a block has is a part: w_parts[chunk]
// and x_parts[tile of k], in `real`, which feature_insight_sum adds up.

namespace backward {

constexpr int WIDE = 64, HEIGHT = sizeof(real) == 8 ? 32 : 64, WARPS = THREADS / 32;
constexpr int ROWS = HEIGHT / 8;         // of a thread, times 4 columns, when it computes d
constexpr int COLUMNS = DEPTH / 2;       // input columns of a lane, times 4 columns, for w_grad
constexpr int X_ROWS = HEIGHT / 16, X_COLUMNS = DEPTH / 8;  // of a thread, for x_grad

struct Memory {
    alignas(16) real d_bk[HEIGHT][WIDE + 4], x_bn[HEIGHT][DEPTH + 4], w_nk[DEPTH][WIDE + 4];
};

// d = 2 grad * (x w), the product over all columns of the segment.
__device__ void make_d(Memory& shared, const scalar* grad, const scalar* x, const scalar* w, i64 N,
                       i64 K, int size, int has_rows, i64 has_k) {
    const int k = threadIdx.x % 16 * 4, b = threadIdx.x / 16 * ROWS;
    real sum[ROWS][4] = {};
    for (int n0 = 0; n0 < size; n0 += DEPTH) {
        __syncthreads();
        lay_down<1, DEPTH>(x + n0, N, shared.x_bn, HEIGHT, has_rows, size - n0);
        lay_down<VEC, WIDE>(w + n0 * K, K, shared.w_nk, DEPTH, size - n0, has_k);
        __syncthreads();
#pragma unroll
        for (int n = 0; n < DEPTH; n += 4) {
            quad w_k[4];
#pragma unroll
            for (int j = 0; j < 4; j++) w_k[j] = load_quad(&shared.w_nk[n + j][k]);
#pragma unroll
            for (int row = 0; row < ROWS; row++) {
                const quad x_n = load_quad(&shared.x_bn[b + row][n]);
#pragma unroll
                for (int j = 0; j < 4; j++)
#pragma unroll
                    for (int c = 0; c < 4; c++) sum[row][c] += x_n.at[j] * w_k[j].at[c];
            }
        }
    }
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        const real twice = b + row < has_rows ? 2 * widen(grad[(b + row) * SEGMENTS]) : real(0);
#pragma unroll
        for (int c = 0; c < 4; c++) shared.d_bk[b + row][k + c] = twice * sum[row][c];
    }
}

// The parts of w_grad that the warps hold, added up in the order of the warps by the first one.
__device__ bool add_warps(real (*room)[WIDE + 4], real (&sum)[COLUMNS][4]) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int n = lane / 16 * COLUMNS, k = lane % 16 * 4;
    for (int next = 1; next < WARPS; next++) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < COLUMNS * 4; i++)
            if (warp == next) room[n + i / 4][k + i % 4] = sum[i / 4][i % 4];
        __syncthreads();
#pragma unroll
        for (int i = 0; i < COLUMNS * 4; i++)
            if (warp == 0) sum[i / 4][i % 4] += room[n + i / 4][k + i % 4];
    }
    return warp == 0;
}

__device__ void run(Memory& shared, const scalar* grad, const scalar* x, const scalar* w,
                    scalar* x_grad, scalar* w_grad, real* x_parts, real* w_parts, i64 B, i64 N,
                    i64 K, i64 chunk) {
    constexpr i64 COUNT = sizeof(tiles) / sizeof(Tile);
    const i64 k_tiles = K > WIDE ? (K + WIDE - 1) / WIDE : 1;
    const i64 k_tile = blockIdx.x / COUNT % k_tiles, k0 = k_tile * WIDE;
    const Tile tile = tiles[blockIdx.x % COUNT];
    const int size = sizes[tile.segment], has_n = at_most(size - tile.offset, DEPTH);
    const i64 first = firsts[tile.segment], n0 = first + tile.offset;
    const i64 end_b = (blockIdx.y + 1) * chunk < B ? (blockIdx.y + 1) * chunk : B;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int w_n = lane / 16 * COLUMNS, w_k = lane % 16 * 4;
    const int x_n = threadIdx.x % 8 * X_COLUMNS, x_b = threadIdx.x / 8 * X_ROWS;
    real w_sum[COLUMNS][4] = {};

    for (i64 b0 = blockIdx.y * chunk; b0 < end_b; b0 += HEIGHT) {
        const int has_rows = (int)(end_b - b0 < HEIGHT ? end_b - b0 : HEIGHT);
        if constexpr (AGGREGATE)
            make_d(shared, grad + b0 * SEGMENTS + tile.segment, x + b0 * N + first,
                   w + first * K + k0, N, K, size, has_rows, K - k0);
        __syncthreads();  // all have read what lies there
        if constexpr (!AGGREGATE)
            lay_down<VEC, WIDE>(grad + (b0 * SEGMENTS + tile.segment) * K + k0, SEGMENTS * K,
                                shared.d_bk, HEIGHT, has_rows, K - k0);
        lay_down<1, DEPTH>(x + b0 * N + n0, N, shared.x_bn, HEIGHT, has_rows, has_n);
        lay_down<VEC, WIDE>(w + n0 * K + k0, K, shared.w_nk, DEPTH, has_n, K - k0);
        __syncthreads();

        for (int row = warp; row < HEIGHT; row += WARPS) {
            const quad d_k = load_quad(&shared.d_bk[row][w_k]);
#pragma unroll
            for (int i = 0; i < COLUMNS; i += 4) {
                const quad x_of = load_quad(&shared.x_bn[row][w_n + i]);
#pragma unroll
                for (int j = 0; j < 4; j++)
#pragma unroll
                    for (int c = 0; c < 4; c++) w_sum[i + j][c] += x_of.at[j] * d_k.at[c];
            }
        }
        real x_sum[X_ROWS][X_COLUMNS] = {};
#pragma unroll 4
        for (int k = 0; k < WIDE; k += 4) {
            quad d_b[X_ROWS], w_of[X_COLUMNS];
#pragma unroll
            for (int i = 0; i < X_ROWS; i++) d_b[i] = load_quad(&shared.d_bk[x_b + i][k]);
#pragma unroll
            for (int j = 0; j < X_COLUMNS; j++) w_of[j] = load_quad(&shared.w_nk[x_n + j][k]);
#pragma unroll
            for (int i = 0; i < X_ROWS; i++)
#pragma unroll
                for (int j = 0; j < X_COLUMNS; j++)
#pragma unroll
                    for (int c = 0; c < 4; c++) x_sum[i][j] += d_b[i].at[c] * w_of[j].at[c];
        }
#pragma unroll
        for (int i = 0; i < X_ROWS; i++)
#pragma unroll
            for (int j = 0; j < X_COLUMNS; j++) {
                const i64 at = (b0 + x_b + i) * N + n0 + x_n + j;
                if (x_b + i >= has_rows || x_n + j >= has_n) continue;
                if (k_tiles == 1)
                    x_grad[at] = narrow(x_sum[i][j]);
                else
                    x_parts[k_tile * B * N + at] = x_sum[i][j];
            }
    }
    if (!add_warps(shared.d_bk, w_sum)) return;
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
        if (w_n + i >= has_n) continue;
        const i64 at = (n0 + w_n + i) * K + k0 + w_k;
        if (gridDim.y == 1) store_four(w_grad + at, w_sum[i], K - k0 - w_k);
        for (int c = 0; c < 4 && k0 + w_k + c < K && gridDim.y > 1; c++)
            w_parts[blockIdx.y * N * K + at + c] = w_sum[i][c];
    }
}

}  // namespace backward

extern "C" __global__ void __launch_bounds__(THREADS, GRAD_SIDE_BY_SIDE)
feature_insight_grad(const scalar* __restrict__ grad, const scalar* __restrict__ x,
                     const scalar* __restrict__ w, scalar* __restrict__ x_grad,
                     scalar* __restrict__ w_grad, real* __restrict__ x_parts,
                     real* __restrict__ w_parts, i64 B, i64 N, i64 K, i64 chunk) {
    __shared__ backward::Memory shared;
    backward::run(shared, grad, x, w, x_grad, w_grad, x_parts, w_parts, B, N, K, chunk);
}

// out[i] = sum over the parts of parts[part, i], in their order; a thread makes one sum.
extern "C" __global__ void __launch_bounds__(256)
feature_insight_sum(const real* __restrict__ parts, scalar* __restrict__ out, i64 count, i64 size) {
    const i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x;
    if (i >= size) return;
    real sum = 0;
    for (i64 part = 0; part < count; part++) sum += parts[part * size + i];
    out[i] = narrow(sum);
}
