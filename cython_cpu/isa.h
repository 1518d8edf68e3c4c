/* SPDX-License-Identifier: Apache-2.0
 *
 * Which instruction sets this processor, and its system, can run. Included by _call.pyx alone. Their
 * names and compiler flags are in _build.py; every kernel is compiled for each.
 */
#ifndef MLAYERS_ISA_H
#define MLAYERS_ISA_H

#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

static int mlayers_can_run(const char *isa) {
#if defined(__x86_64__)
    unsigned eax, ebx, ecx = 0, edx;
    __builtin_cpu_init();
    __get_cpuid(1, &eax, &ebx, &ecx, &edx); /* clang 16 knows no "f16c" that it could be asked for */
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && (ecx & bit_F16C);
    if (strcmp(isa, "avx2") == 0) return avx2;
    if (strcmp(isa, "avx512") == 0)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return strcmp(isa, "baseline") == 0;
}

#endif
