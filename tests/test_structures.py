"""Structured arguments: what counts as one, what is shared, what becomes of numbers, and the public helpers."""
import collections
import dataclasses
import functools
import logging
import pickle
import time
import types
from typing import NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import cyad
from cyad import ActivityError, Const, Forward, Reverse, gradient, make_zero, onehot, ravel, set_zero
from cyad._structures import flatten

BOTH = pytest.mark.parametrize("mode", [Forward, Reverse], ids=lambda m: m.name)


class Pair(NamedTuple):
    a: object
    b: object


class Triple(tuple):
    """A tuple that is made of one argument."""


@dataclasses.dataclass
class Layer:
    w: object
    b: object
    name: str = "layer"


@dataclasses.dataclass(frozen=True)
class Frozen:
    w: object
    b: object


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlots:
    w: object
    b: object


class Slots:
    __slots__ = ("__b", "w")

    def __init__(self, w, b):
        self.w, self.__b = w, b

    @property
    def b(self):
        return self.__b


class MoreSlots(Slots):
    __slots__ = ("unset", "more")


class Bunch(dict):
    """A dict whose entries are attributes."""

    def __init__(self, **entries):
        super().__init__(entries)
        self.__dict__ = self


class Rows(list):
    scale = None


W, B = np.array([[1.0, 2.0], [3.0, 4.0]]), 0.5

HOLDERS = {
    "dict": (lambda: {"w": W, "b": B}, lambda p: (p["w"], p["b"])),
    "ordered dict": (lambda: collections.OrderedDict(w=W, b=B), lambda p: (p["w"], p["b"])),
    "defaultdict": (lambda: collections.defaultdict(list, w=W, b=B), lambda p: (p["w"], p["b"])),
    "bunch": (lambda: Bunch(w=W, b=B), lambda p: (p.w, p["b"])),
    "list": (lambda: [W, B], tuple),
    "deque": (lambda: collections.deque([W, B], 5), tuple),
    "tuple": (lambda: (W, B), tuple),
    "tuple subclass": (lambda: Triple((W, B, "x")), lambda p: p[:2]),
    "named tuple": (lambda: Pair(W, B), lambda p: (p.a, p.b)),
    "dataclass": (lambda: Layer(W, B), lambda p: (p.w, p.b)),
    "frozen": (lambda: Frozen(W, B), lambda p: (p.w, p.b)),
    "frozen with slots": (lambda: FrozenSlots(W, B), lambda p: (p.w, p.b)),
    "slots": (lambda: Slots(W, B), lambda p: (p.w, p.b)),
    "inherited slots": (lambda: MoreSlots(W, B), lambda p: (p.w, p.b)),
    "namespace": (lambda: types.SimpleNamespace(w=W, b=B), lambda p: (p.w, p.b)),
    "nested": (lambda: {"in": [Pair(FrozenSlots(W, "s"), {"b": (B,)})], "n": 3},
               lambda p: (p["in"][0].a.w, p["in"][0].b["b"][0])),
}


@BOTH
@pytest.mark.parametrize("holder", HOLDERS)
def test_every_kind_of_holder(mode, holder):
    make, parts = HOLDERS[holder]
    given = make()

    def f(p):
        w, b = parts(p)
        assert type(p) is type(given)
        return b * np.sum(w**2)

    (g,) = gradient(mode, f, given)
    assert type(g) is type(given)
    dw, db = parts(g)
    assert_allclose(dw, 2 * B * W)
    assert_allclose(db, np.sum(W**2))
    assert parts(given)[0] is W


def test_attributes_of_a_list():
    rows = Rows([W])
    rows.scale = 3.0
    (g,) = gradient(Reverse, lambda r: r.scale * np.sum(r[0]), rows)
    assert g.scale == 10.0
    assert_array_equal(g[0], np.full((2, 2), 3.0))


@BOTH
def test_shared_arrays_are_differentiated_once(mode):
    p = {"a": W, "b": [W], "c": W[:]}
    (g,) = gradient(mode, lambda p: np.sum(p["a"] * p["b"][0]) + np.sum(p["c"]), p)
    assert g["a"] is g["b"][0]
    assert_allclose(g["a"], 2 * W)
    assert_array_equal(g["c"], np.ones((2, 2)))


@BOTH
def test_references_in_a_circle(mode):
    p = Layer(W, 1.5)
    p.me = p
    around = [2.0]
    around.append((around, 3.0))
    p.around = around

    def f(p):
        assert p.me is p and p.around[1][0] is p.around
        return p.me.me.b * np.sum(p.w) * p.around[0] * p.around[1][1] ** 2

    (g,) = gradient(mode, f, p)
    assert g.me is g and g.around[1][0] is g.around
    assert (g.b, g.around[0], g.around[1][1]) == (180.0, 135.0, 180.0)
    assert_array_equal(g.w, np.full((2, 2), 27.0))


def test_a_number_in_a_circle_through_a_tuple_is_one_leaf():
    inner = []
    outer = (1.0, inner, 2.0)
    inner.append(outer)
    leaves, rebuild = flatten(outer)
    assert leaves == [1.0, 2.0]
    again = rebuild([3.0, 4.0])
    assert again[0] == 3.0 and again[2] == 4.0 and again[1][0] is again


def test_what_is_inactive_stays_what_it_is():
    log, part, clock = logging.getLogger("cyad"), functools.partial(np.sum, axis=0), time.gmtime(0)
    index = np.arange(3)
    p = {"w": W, "log": log, "part": part, "clock": clock, "index": index, "none": None, "f": np.sin, "n": 3, "t": True}
    (g,) = gradient(Reverse, lambda p: np.sum(p["part"](p["w"])), p)
    assert list(g) == list(p)
    for key in p:
        assert key == "w" or g[key] is p[key], key
    assert_array_equal(g["w"], np.ones((2, 2)))


@BOTH
@pytest.mark.parametrize("chunk", [None, 1])
def test_assignments_to_a_structure_are_those_of_a_plain_call(mode, chunk):
    p = Layer(W, 0.5)
    p.parts, p.gone = {"list": [1.0, 2.0], "n": 1}, "x"

    def f(p):
        p.w = p.w * 2.0
        p.extra = p.w[0, 0]
        p.b = None
        p.me = p
        p.parts["list"].append(p.w[1])
        p.parts["n"] += 1
        del p.gone
        return np.sum(p.w)

    (g,) = gradient(mode, f, p, chunk=chunk)
    assert type(p.w) is np.ndarray and p.b is None and p.me is p and p.extra == 2.0 and isinstance(p.extra, float)
    assert_array_equal(p.w, 2 * W)
    assert type(p.parts["list"][2]) is np.ndarray and p.parts["list"][:2] == [1.0, 2.0] and p.parts["n"] == 2
    assert not hasattr(p, "gone")
    assert_array_equal(g.w, np.full((2, 2), 2.0))
    assert g.b == 0.0


@BOTH
def test_structures_beside_arrays_numbers_and_constants(mode):
    x = np.array([1.0, 2.0])
    g = gradient(mode, lambda x, p, c, s: s * np.sum(x) * p["k"] * c["k"], x, {"k": 3.0}, Const({"k": 5.0}), 7.0)
    assert_array_equal(g[0], [105.0, 105.0])
    assert g[1:] == ({"k": 105.0}, None, 45.0)


# ---- helpers --------------------------------------------------------------------------------------------------------

def test_make_zero_keeps_types():
    p = {"a": np.float32(2.0), "b": np.ones(2, np.float32), "c": 1j, "d": np.ones((2, 2), order="F"), "e": np.inf,
         "f": (1.0, "s"), "g": Frozen(2.0, np.complex64(1j)), "i": np.arange(2), "n": np.nan}
    z = make_zero(p)
    assert type(z["a"]) is np.float32 and z["b"].dtype == np.float32 and z["c"] == 0j and z["d"].flags.f_contiguous
    assert z["e"] == 0.0 and z["n"] == 0.0 and z["f"] == (0.0, "s") and z["i"] is p["i"]
    assert z["g"] == Frozen(0.0, np.complex64(0)) and type(z["g"].b) is np.complex64
    assert p["b"][0] == 1.0
    assert make_zero(3.0) == 0.0 and make_zero("s") == "s"


def test_make_zero_of_shared_and_circular():
    p = [W, W]
    p.append(p)
    z = make_zero(p)
    assert z[0] is z[1] and z[2] is z and not z[0].any()


def test_set_zero():
    p = Layer(W.copy(), 2.0)
    p.parts = {"x": [1.0, (np.ones(2), "s")], "me": p}
    x = p.parts["x"][1][0]
    assert set_zero(p) is None
    assert not p.w.any() and p.b == 0.0 and p.parts["x"][0] == 0.0 and not x.any() and p.name == "layer"
    strided = np.ones((2, 3)).T
    set_zero(strided)
    assert not strided.any()


@pytest.mark.parametrize("bad, said", [
    (lambda x: 2.0, "number"), (lambda x: [x, (1.0, 2.0)], "tuple"), (lambda x: [x, Frozen(x, 2.0)], "Frozen holds"),
    (lambda x: [x, np.broadcast_to(x, (2, 2))], "read-only"),
], ids=["number", "tuple", "frozen", "read-only"])
def test_set_zero_refuses_before_it_writes(bad, said):
    x = np.ones(2)
    with pytest.raises(ActivityError, match=said):
        set_zero(bad(x))
    assert x.all()


def test_unit_vectors_of_a_structure():
    p = {"a": 2.0, "b": np.zeros((2, 1), np.float32), "c": np.zeros(1, complex), "s": "s"}
    units = onehot(p)
    assert [(u["a"], u["b"].tolist(), u["c"].tolist()) for u in units] == [
        (1.0, [[0.0], [0.0]], [0j]), (0.0, [[1.0], [0.0]], [0j]), (0.0, [[0.0], [1.0]], [0j]),
        (0.0, [[0.0], [0.0]], [1.0 + 0j]), (0.0, [[0.0], [0.0]], [1j])]
    assert units[1]["b"].dtype == np.float32
    assert [u["a"] for u in onehot(p, 0, 2)] == [1.0, 0.0]
    assert onehot(2.0) == (1.0,)
    chunks = cyad.chunked_onehot(p, 2)
    assert [len(c) for c in chunks] == [2, 2, 1]
    assert_array_equal(chunks[2][0]["c"], [1j])
    assert onehot(np.zeros((0, 3))) == () and cyad.chunked_onehot(np.zeros(0), 2) == ()


@pytest.mark.parametrize("chunk", [0, -1, "a", 2.0, None, True])
def test_chunks_are_positive_integers(chunk):
    with pytest.raises(ActivityError, match="chunk"):
        cyad.chunked_onehot(np.zeros(2), chunk)


def test_ravel_and_back():
    p = {"a": 2.0, "b": W.T, "c": np.float32(3.0), "s": "s", "e": np.zeros((0, 2)), "z": np.array(4.0)}
    vector, unravel = ravel(p)
    assert vector.dtype == np.float64
    assert_array_equal(vector, [2.0, 1.0, 3.0, 2.0, 4.0, 3.0, 4.0])
    q = unravel(vector)
    assert type(q["a"]) is float and type(q["c"]) is np.float32 and q["z"].shape == () and q["e"].shape == (0, 2)
    assert_array_equal(q["b"], W.T)
    assert q["s"] == "s"
    vector[1] = 9.0
    assert q["b"][0, 0] == 9.0 and W[0, 0] == 1.0
    assert type(unravel(list(range(7)))["a"]) is float
    for bad in (np.zeros(6), np.zeros((7, 1)), np.zeros(7, complex)):
        with pytest.raises(ActivityError, match="unravel"):
            unravel(bad)


def test_ravel_of_nothing_of_one_dtype_and_of_complex():
    assert ravel({"s": 1})[0].shape == (0,) and ravel({"s": 1})[1](np.zeros(0)) == {"s": 1}
    assert ravel([np.ones(2, np.float32)])[0].dtype == np.float32
    vector, unravel = ravel([1.0, np.array([2j])])
    assert_array_equal(vector, [1.0, 2j])
    one, two = unravel(vector)
    assert one == 1.0 and type(one) is float
    assert_array_equal(two, [2j])


@BOTH
def test_derivatives_pass_through_ravel(mode):
    p = {"a": 2.0, "b": W, "c": np.ones(2, np.float32)}
    vector, unravel = ravel(p)

    def of_structure(p):
        return p["a"] * np.sum(p["b"] ** 2) + np.sum(p["c"]) * p["a"]

    (g,) = gradient(mode, lambda v: of_structure(unravel(v)), vector)
    assert_allclose(g, [32.0, 4.0, 8.0, 12.0, 16.0, 2.0, 2.0])
    (h,) = gradient(mode, lambda p: np.sum(ravel(p)[0] ** 2), p)
    assert h["a"] == 4.0
    assert_allclose(h["b"], 2 * W)
    (k,) = gradient(mode, lambda p: ravel(p)[1](ravel(p)[0] * 2.0)["a"], p)
    assert k["a"] == 2.0


def test_gradients_can_be_pickled():
    (g,) = gradient(Reverse, lambda p: np.sum(p.w), Layer(W, 1.0))
    again = pickle.loads(pickle.dumps(g))
    assert_array_equal(again.w, g.w)


class Net:
    def __init__(self):
        self.w = np.ones((2, 2))

    def loss(self, x):
        self.n = np.sum(self.w @ x)
        return self.n**2


class Slotted:
    __slots__ = ("n", "w")

    def __init__(self):
        self.w = np.ones(2)


def _adds(p):
    p["n"] = np.sum(p["w"])
    return p["n"] ** 2


def _sets(s):
    s.n = np.sum(s.w)
    return s.n ** 2


@BOTH
def test_what_the_function_adds_is_not_in_the_gradient(mode):
    net, x = Net(), np.array([1.0, 2.0])
    g = gradient(mode, lambda net, x: net.loss(x), net, x)[0]
    assert list(vars(g)) == ["w"] and net.n == 6.0
    assert_allclose(g.w, [[12.0, 24.0], [12.0, 24.0]])
    p = {"w": np.ones(2)}
    g = gradient(mode, _adds, p, chunk=1 if mode.forward else None)[0]   # more than one run, in forward mode
    assert list(g) == ["w"] and p["n"] == 2.0
    g = gradient(mode, _sets, Slotted())[0]
    assert not hasattr(g, "n")
    assert_allclose(g.w, [4.0, 4.0])
    g = cyad.jacobian(mode, lambda p: np.array([_adds(p)]), {"w": np.ones(2)})[0]
    assert list(g) == ["w"]


def test_what_the_function_adds_is_in_no_derivative():
    (g,) = cyad.vjp(_adds, {"w": np.ones(2)})[1](1.0)
    assert list(g) == ["w"]
    h = cyad.hessian(_adds, {"w": np.ones(2)})
    assert list(h) == ["w"] and list(h["w"]) == ["w"]
    assert_allclose(h["w"]["w"], 2 * np.ones((2, 2)))
    assert list(cyad.hvp(_adds, {"w": np.ones(2)}, {"w": np.ones(2)})) == ["w"]
    ref = cyad.Ref({"w": np.zeros(2)})
    cyad.autodiff(Reverse, _adds, cyad.Active, cyad.MixedDuplicated({"w": np.ones(2)}, ref))
    assert list(ref.value) == ["w"]


def _in_itself(x):
    entries = [x[0] * 2]
    entries.append(entries)
    return entries


def _dict_in_itself(x):
    d = {"y": x[0] * 2}
    d["me"] = d
    return d


@pytest.mark.parametrize("f", [_in_itself, _dict_in_itself])
def test_results_that_hold_themselves(f):
    key, me = (0, 1) if f is _in_itself else ("y", "me")
    x = cyad.Duplicated(np.ones(2), np.ones(2))
    (dy,) = cyad.autodiff(Forward, f, cyad.Duplicated, x)
    assert dy[key] == 2.0 and dy[me] is dy
    dy, y = cyad.autodiff(cyad.ForwardWithPrimal, f, cyad.Duplicated, x)
    assert y[key] == 2.0 and y[me] is y and type(y[key]) is np.float64 and dy[me] is dy


def _deep(x):
    entries = x[0]
    for _ in range(100_000):
        entries = [entries]
    return entries


def _deep_tuple(x):
    for _ in range(100_000):
        x = (x, 0)
    return x


NESTED = {   # what NumPy and cyad say of lists without end is an error, not the end of the process
    "result": _deep, "array": lambda x: np.array(_in_itself(x)), "array of a deep list": lambda x: np.array(_deep(x)),
    "sum": lambda x: np.sum(_in_itself(x)), "ufunc": lambda x: np.add(x, _in_itself(x)),
    "concatenate": lambda x: np.concatenate([x, _in_itself(x)]), "stored": lambda x: x.__setitem__(0, _in_itself(x)),
    "hypot": lambda x: np.hypot(x, _deep(x)), "index": lambda x: x[_deep_tuple(np.array([0, 1]))],
}


@BOTH
@pytest.mark.parametrize("name", NESTED)
def test_lists_without_end(mode, name):
    activity = cyad.Duplicated if mode.forward else Const
    mode = mode if mode.forward else cyad.ReverseWithPrimal
    with pytest.raises((ValueError, RecursionError, TypeError)):
        cyad.autodiff(mode, NESTED[name], activity, cyad.Duplicated(np.ones(2), np.ones(2)))


class Recorded:
    """Whose __getattr__ knows nothing of what an instance has not."""

    def __init__(self):
        self.scale, self.weights = 2.0, np.ones(3)

    def __getattr__(self, name):
        return self.__dict__[name]


@BOTH
def test_objects_that_answer_for_missing_attributes(mode):
    g, = gradient(mode, lambda p: p.scale * np.sum(p.weights), Recorded())
    assert g.scale == 3.0 and type(g) is Recorded
    assert_array_equal(g.weights, [2.0, 2.0, 2.0])


class Linked:
    def __init__(self, after):
        self.after = after


class Chain:
    def __init__(self, n):
        self.first, self.kept = None, None
        for _ in range(n):
            self.first = Linked(self.first)

    def total(self, x):
        self.first.after.kept = (x[0], [x * 2.0])
        return np.sum(x**2)


@BOTH
def test_a_method_of_an_object_with_a_long_linked_list(mode):
    chain = Chain(20_000)
    assert_array_equal(gradient(mode, chain.total, np.ones(3))[0], [2.0, 2.0, 2.0])
    first, (second,) = chain.first.after.kept
    assert first == 1.0 and type(second) is np.ndarray
    while chain.first is not None:   # node by node: to free it in one go takes the interpreter's stack
        chain.first = chain.first.after


@BOTH
def test_an_array_of_a_list_that_holds_itself(mode):
    with pytest.raises(ValueError, match="setting an array element with a sequence"):
        gradient(mode, lambda x: np.sum(np.array(_in_itself(x))), np.ones(2))


def test_a_number_or_an_array_whose_shadow_is_in_a_ref():
    for value, zero, expected in ((3.0, 0.0, 6.0), (np.arange(3.0), np.zeros(3), 2 * np.arange(3.0))):
        ref, lanes = cyad.Ref(zero + 0.0), (cyad.Ref(zero + 0.0), cyad.Ref(zero + 1.0))
        assert cyad.autodiff(Reverse, lambda v: np.sum(v * v), cyad.MixedDuplicated(value, ref)) == ((None,),)
        assert cyad.autodiff(Reverse, lambda v: np.sum(v * v), cyad.BatchMixedDuplicated(value, lanes)) == ((None,),)
        for got, want in ((ref, expected), (lanes[0], expected), (lanes[1], expected + 1.0)):
            assert_allclose(got.value, want)
    with pytest.raises(ActivityError, match="the shadow of a number is a number"):
        cyad.autodiff(Reverse, lambda v: v, cyad.MixedDuplicated(3.0, cyad.Ref(np.zeros(2))))
