# SPDX-License-Identifier: Apache-2.0
"""NumPy calls like one that was served before: nothing is checked twice, and nothing goes wrong."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import mlayers
from mlayers.dispatch import cpu
from support.known_calls import is_known

RANDOM = np.random.default_rng(0)
LEFT, RIGHT = (RANDOM.standard_normal((3, n), "float32") for n in (8, 4))
GRAD = RANDOM.standard_normal((3, 8), "float32")


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(cpu, "_known", {})


def outputs(found):
    return found if isinstance(found, tuple) else (found,)


CALLS = {
    "ffm": (mlayers.ffm, (LEFT, RIGHT, 4)),
    "ffm dot": (mlayers.ffm, (LEFT, RIGHT, 4, "dot")),
    "ffm_grad": (mlayers.ffm_grad, (GRAD, LEFT, RIGHT, 4)),
    "lhuc_gate": (mlayers.lhuc_gate, (LEFT, GRAD)),
    "lhuc_gate_grad": (mlayers.lhuc_gate_grad, (GRAD, LEFT, LEFT)),
    "weight_norm": (mlayers.weight_norm, (LEFT, LEFT[0])),
    "weight_norm_grad": (mlayers.weight_norm_grad, (GRAD, LEFT, LEFT[0])),
}
every_call = pytest.mark.parametrize("name", CALLS)


@every_call
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_known_call_gives_the_same(name, dtype, monkeypatch):
    op, arguments = CALLS[name]
    arguments = [a.astype(dtype) if isinstance(a, np.ndarray) else a for a in arguments]
    expected = outputs(op(*arguments))
    found = []
    assert is_known(monkeypatch, lambda: found.extend(outputs(op(*arguments))))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == dtype
        assert not np.shares_memory(one, other)


@every_call
def test_known_call_writes_into_out(name, monkeypatch):
    op, arguments = CALLS[name]
    expected = outputs(op(*arguments))
    out = tuple(np.full_like(array, np.nan) for array in expected)
    given = out if len(out) > 1 else out[0]
    op(*arguments, out=given)
    for array in out:
        array.fill(np.nan)
    found = []
    assert is_known(monkeypatch, lambda: found.append(op(*arguments, out=given)))
    for one, array, other in zip(outputs(found[0]), out, expected, strict=True):
        assert one is array
        np.testing.assert_array_equal(one, other)


def test_out_may_be_an_input_or_overlap_one():
    hidden, logits = GRAD.copy(), LEFT.copy()
    expected = mlayers.lhuc_gate(hidden, logits)
    out = np.empty_like(hidden)
    mlayers.lhuc_gate(hidden, logits, out=out)  # known from here on, whatever memory it is
    assert mlayers.lhuc_gate(hidden, logits, out=hidden) is hidden
    np.testing.assert_array_equal(hidden, expected)
    memory = np.zeros(40, "float32")
    memory[8:32] = GRAD.ravel()
    shifted = memory[4:28].reshape(3, 8)
    mlayers.lhuc_gate(memory[8:32].reshape(3, 8), logits, out=shifted)
    np.testing.assert_array_equal(shifted, expected)


def test_outs_may_not_overlap_where_the_call_is_known():
    out = np.empty_like(LEFT), np.empty_like(LEFT)
    mlayers.lhuc_gate_grad(GRAD, LEFT, LEFT, out=out)
    with pytest.raises(ValueError, match="must not share memory"):
        mlayers.lhuc_gate_grad(GRAD, LEFT, LEFT, out=(out[0], out[0]))


STRIDED = np.empty((3, 16), "float32")
STRIDED[:, ::2] = LEFT
SHIFTED = np.empty(LEFT.nbytes + 1, "uint8")[1:].view("float32").reshape(LEFT.shape)
SHIFTED[...] = LEFT
FIXED = LEFT.copy()
FIXED.flags.writeable = False
ANOTHER = {
    "batch": lambda: mlayers.ffm(LEFT[:2], RIGHT[:2], 4),
    "dtype": lambda: mlayers.ffm(LEFT.astype("float64"), RIGHT.astype("float64"), 4),
    "byte order": lambda: mlayers.ffm(LEFT.astype(">f4"), RIGHT, 4),
    "attribute": lambda: mlayers.ffm(LEFT, RIGHT, 2),
    "word": lambda: mlayers.ffm(LEFT, RIGHT, 4, "dot"),
    "type of an attribute": lambda: mlayers.ffm(LEFT, RIGHT, np.int64(4)),
    "op": lambda: mlayers.ffm_grad(GRAD, LEFT, RIGHT, 4),
    "strides": lambda: mlayers.ffm(STRIDED[:, ::2], RIGHT, 4),
    "order": lambda: mlayers.ffm(np.asfortranarray(LEFT), RIGHT, 4),
    "alignment": lambda: mlayers.ffm(SHIFTED, RIGHT, 4),
    "read-only": lambda: mlayers.ffm(FIXED, RIGHT, 4),
    "subclass": lambda: mlayers.ffm(LEFT.view(np.matrix), RIGHT, 4),
    "out": lambda: mlayers.ffm(LEFT, RIGHT, 4, out=np.empty((3, 8), "float32")),
}


@pytest.mark.parametrize("what", ANOTHER)
def test_another_call_is_looked_at(what, monkeypatch):
    expected = mlayers.ffm(LEFT, RIGHT, 4)
    found = []
    assert not is_known(monkeypatch, lambda: found.append(ANOTHER[what]()))
    if what not in ("batch", "attribute", "word", "op"):
        np.testing.assert_allclose(found[0], expected, rtol=1e-6)


WRONG = {
    "dtype": lambda: mlayers.ffm(LEFT, RIGHT.astype("float64"), 4),
    "integers": lambda: mlayers.ffm(LEFT.astype(int), RIGHT.astype(int), 4),
    "batch": lambda: mlayers.ffm(LEFT, RIGHT[:2], 4),
    "width": lambda: mlayers.ffm(LEFT[:, :7], RIGHT, 4),
    "list": lambda: mlayers.ffm(LEFT, RIGHT.tolist(), 4),
    "masked": lambda: mlayers.ffm(np.ma.masked_array(LEFT), RIGHT, 4),
    "bool": lambda: mlayers.ffm(LEFT[:, :1], RIGHT[:, :1], True),
    "float": lambda: mlayers.ffm(LEFT, RIGHT, 4.0),
    "word": lambda: mlayers.ffm(LEFT, RIGHT, 4, "sum"),
    "out in a tuple": lambda: mlayers.ffm(LEFT, RIGHT, 4, out=(np.empty((3, 8), "float32"),)),
    "out of nothing": lambda: mlayers.ffm(LEFT, RIGHT, 4, out=()),
    "out of another shape": lambda: mlayers.ffm(LEFT, RIGHT, 4, out=np.empty((8, 3), "float32")),
    "out that is fixed": lambda: mlayers.ffm(LEFT, RIGHT, 4, out=FIXED),
    "one out of two": lambda: mlayers.ffm_grad(GRAD, LEFT, RIGHT, 4, out=LEFT.copy()),
    "outs in a list": lambda: mlayers.ffm_grad(
        GRAD, LEFT, RIGHT, 4, out=[LEFT.copy(), RIGHT.copy()]
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_call_is_refused_in_the_same_words(what):
    with pytest.raises((TypeError, ValueError)) as unknown:
        WRONG[what]()
    mlayers.ffm(LEFT, RIGHT, 4)
    mlayers.ffm(LEFT, RIGHT, 4, out=np.empty((3, 8), "float32"))
    mlayers.ffm(LEFT[:, :1].copy(), RIGHT[:, :1].copy(), 1)
    mlayers.ffm_grad(GRAD, LEFT, RIGHT, 4)
    mlayers.ffm_grad(GRAD, LEFT, RIGHT, 4, out=(LEFT.copy(), RIGHT.copy()))
    with pytest.raises((TypeError, ValueError)) as known:
        WRONG[what]()
    assert (known.type, str(known.value)) == (unknown.type, str(unknown.value))


@pytest.mark.parametrize("path", ["reference", "composition", "cython"])
def test_forced_path_is_kept(path, monkeypatch):
    with mlayers.use_kernels(path):
        mlayers.ffm(LEFT, RIGHT, 4)
    assert not cpu._known  # or it would be taken where the rule says composition
    mlayers.ffm(LEFT, RIGHT, 4)
    with mlayers.use_kernels(path):
        assert not is_known(monkeypatch, lambda: mlayers.ffm(LEFT, RIGHT, 4))


def test_half_types_and_composed_calls_are_not_known():
    half = LEFT.astype("float16")
    assert mlayers.lhuc_gate(half, half).dtype == "float16"
    with mlayers.use_kernels("composition"):
        mlayers.lhuc_gate(LEFT, LEFT)
    assert not cpu._known


def test_what_is_known_stays_small(monkeypatch):
    monkeypatch.setattr(cpu, "_MOST_KNOWN", 4)
    for batch in range(1, 20):
        mlayers.ffm(np.ones((batch, 4)), np.ones((batch, 4)), 4)
        assert 0 < len(cpu._known) <= 4


def test_many_threads_know_and_forget(monkeypatch):
    monkeypatch.setattr(cpu, "_MOST_KNOWN", 4)
    cases = [(LEFT[:b].repeat(n, 0), RIGHT[:b].repeat(n, 0)) for b in (1, 2, 3) for n in (1, 2, 3)]
    expected = [mlayers.ffm(left, right, 4) for left, right in cases]

    def call(seed):
        for i in np.random.default_rng(seed).integers(len(cases), size=300):
            np.testing.assert_array_equal(mlayers.ffm(*cases[i], 4), expected[i])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(call, range(8)))  # raises what a thread raised


def test_no_array_is_kept():
    array = LEFT.copy()
    for _ in range(2):
        mlayers.lhuc_gate(array, array)
    alive = weakref.ref(array)
    del array
    gc.collect()
    assert alive() is None
