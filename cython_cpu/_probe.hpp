/* SPDX-License-Identifier: Apache-2.0
 *
 * The probe's loop: out = scale * x, element by element.
 */
#ifndef MLAYERS_PROBE_HPP
#define MLAYERS_PROBE_HPP

#include "bodies.hpp"

namespace mlayers {
namespace {

template <typename T>
inline void scale_rows(const mlayers_call *call, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
        double scaled;
        convert(input<T>(call, 0) + i, &scaled, 1);
        scaled *= call->ints[0];
        convert(&scaled, output<T>(call, 0) + i, 1);
    }
}

constexpr mlayers_body SCALE_ROWS[] = MLAYERS_BODIES(scale_rows);

}  // namespace
}  // namespace mlayers
#endif
