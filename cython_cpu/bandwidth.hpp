/* SPDX-License-Identifier: Apache-2.0
 *
 * The plainest loops over memory there are, for _bandwidth.pyx.
 */
#ifndef MLAYERS_BANDWIDTH_HPP
#define MLAYERS_BANDWIDTH_HPP

#include "stream.hpp"

namespace mlayers {
namespace {

constexpr int64_t AT_ONCE = 1024; /* numbers: 4 KB */

inline void fill_memory(float *to, int64_t n) {
    constexpr int W = LANES<float>;
    int64_t i = 0;
    for (; i + W <= n; i += W) store<W>(to + i, all<W>(1.0f));
    for (; i < n; i++) to[i] = 1;
}

inline void fill_past_caches(float *to, int64_t n) {
    float ones[AT_ONCE];
    fill_memory(ones, AT_ONCE);
    for (int64_t i = 0; i < n; i += AT_ONCE)
        stream(to + i, ones, (n - i < AT_ONCE ? n - i : AT_ONCE) * sizeof(float));
    stream_done();
}

inline void copy_memory(const float *from, float *to, int64_t n) {
    memcpy(to, from, n * sizeof(float));
}

/* Four sums, so that none waits for another. */
inline float read_memory(const float *from, int64_t n) {
    constexpr int W = LANES<float>;
    Vector<float, W> sums[4] = {};
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W)
        for (int j = 0; j < 4; j++) sums[j] += load<W>(from + i + j * W);
    return fold<float, 1, W>(sums[0] + sums[1] + sums[2] + sums[3]);
}

}  // namespace
}  // namespace mlayers
#endif
