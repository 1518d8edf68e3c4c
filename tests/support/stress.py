# SPDX-License-Identifier: Apache-2.0
"""Run as a program: random ops from eight threads, in all three frameworks, in one process.

KERAS_BACKEND=torch python -m support.stress SECONDS

Every result is compared with the reference. The resident memory is read after a quarter of the
time, when all that is compiled and cached has been, and again at the end. The active backend is
called through its compiled functions too; the others, which the front door refuses, through their
bridges. Prints what it saw as JSON.
"""

import json
import random
import sys
import threading
import time
from collections import Counter

import jax
import jax.numpy as jnp
import keras
import numpy as np
import tensorflow as tf
import torch

import mlayers
from mlayers.bridges import native
from mlayers.op import OPS
from support.bridge_calls import CALLS, arrays_of, call, gradients

THREADS = 8
BATCHES = (0, 1, 7, 64, 4096)  # the largest is worth several threads of the pool
ACTIVE = keras.backend.backend()


def bridged(name, framework):
    """A call that goes straight to a framework's bridge."""
    op = OPS[CALLS[name][0]]
    given = CALLS[name][2]
    defaults = {"int_type": "multiply", "aggregate": False}
    values = tuple({**defaults, **given}[attribute.name] for attribute in op.attributes)
    bridge = native.bridge(framework)
    return lambda *tensors: bridge.run(op, tensors, values)[0]


def with_gradients(framework, function):
    """From NumPy arrays to the value and the gradients of the sum of its squares."""
    if framework == "jax":

        def both(*tensors):
            value, pullback = jax.vjp(function, *tensors)
            return value, pullback(2 * value)

        return both, jnp.asarray
    if framework == "tensorflow":

        def both(*tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                value = function(*tensors)
                total = tf.reduce_sum(value * value)
            return value, tape.gradient(total, tensors)

        return both, tf.constant

    def both(*tensors):
        tensors = [t.requires_grad_() for t in tensors]
        value = function(*tensors)
        return value.detach(), torch.autograd.grad((value * value).sum(), tensors)

    return both, lambda array: torch.from_numpy(array.copy())


def make_jobs():
    """Everything that may be called, with inputs and expected results."""
    jobs = []
    for name in CALLS:
        ways = {f: with_gradients(f, bridged(name, f)) for f in native.FRAMEWORKS}
        both, convert = with_gradients(ACTIVE, lambda *t, n=name: call(n, *t))
        ways["front door"] = both, convert
        if ACTIVE == "jax":
            ways["jax.jit"] = jax.jit(both), convert
        elif ACTIVE == "tensorflow":
            ways["tf.function"] = tf.function(both, autograph=False), convert
        else:
            compiled = torch.compile(lambda *t, n=name: call(n, *t), backend="aot_eager")
            ways["torch.compile"] = with_gradients("torch", compiled)
        for batch in BATCHES:
            arrays = arrays_of(name, seed=batch, batch=batch)
            with mlayers.use_kernels("reference"):
                expected = call(name, *arrays)
            for way, (function, to_tensor) in ways.items():
                jobs.append((f"{name} {way}", arrays, function, to_tensor, expected))
                right(jobs[-1], gradients(name, *arrays))  # compiles, in this one thread
        jobs = [(*job[:5], gradients(name, *job[1])) if len(job) == 5 else job for job in jobs]
    return jobs


def right(job, grads):
    _, arrays, function, to_tensor, expected = job[:5]
    value, found = function(*map(to_tensor, arrays))
    close = {"rtol": 1e-4, "atol": 1e-3}  # a weight's gradient sums over 4096 rows
    return np.allclose(value, expected, **close) and all(
        np.allclose(one, other, **close) for one, other in zip(found, grads, strict=True)
    )


def resident():
    """Megabytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


def main(seconds):
    unavailable = [f for f in native.FRAMEWORKS if native.bridge(f) is None]
    jobs = make_jobs()
    done, wrong = Counter(), Counter()
    end = time.monotonic() + seconds

    def work(seed):
        generator = random.Random(seed)
        while time.monotonic() < end:
            job = generator.choice(jobs)
            (done if right(job, job[5]) else wrong)[job[0]] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 4)
    before = resident()
    for thread in threads:
        thread.join()
    print(
        json.dumps(
            {
                "unavailable": unavailable,
                "calls": sum(done.values()),
                "kinds": len(done),
                "all kinds": len({job[0] for job in jobs}),
                "wrong": dict(wrong),
                "megabytes": [round(before), round(resident())],
            }
        )
    )


if __name__ == "__main__":
    main(float(sys.argv[1]))
