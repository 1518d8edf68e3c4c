/* SPDX-License-Identifier: Apache-2.0
 *
 * What makes a body (call.h) of loops over numbers of a type T.
 */
#ifndef MLAYERS_BODIES_HPP
#define MLAYERS_BODIES_HPP

#include "call.h"
#include "vector.hpp"

/* The instances of a template of bodies, in the order of call.h's dtypes. */
#define MLAYERS_BODIES(body) {body<float>, body<double>, body<float16>, body<bfloat16>}

namespace mlayers {
namespace {

template <typename T>
MLAYERS_INLINE const T *input(const mlayers_call *call, int i) {
    return static_cast<const T *>(call->inputs[i].data);
}

template <typename T>
MLAYERS_INLINE T *output(const mlayers_call *call, int i) {
    return static_cast<T *>(call->outputs[i].data);
}

}  // namespace
}  // namespace mlayers
#endif
