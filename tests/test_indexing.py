"""Indexing and its relatives, read and write, in every combination that NumPy allows.

All of it is linear in what it moves: the derivative of a call along a direction is the same call of plain NumPy on the
directions, and the adjoint follows from calling it on each unit vector. No formula of cyad's is restated, and no
tolerance is needed but for sums.
"""
import itertools
import time

import numpy as np
import pytest

import cyad
from cyad import BatchDuplicated, Duplicated, Forward, Reverse, _repeats, autodiff

LAYOUTS = {
    "C": lambda a: a.copy(),
    "F": lambda a: a.copy(order="F"),
    "reversed": lambda a: a[::-1].copy()[::-1] if a.ndim else a.copy(),
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a.copy(),
}


def values(shape, seed, dtype=np.float64):
    """Distinct whole numbers, in no order."""
    numbers = np.arange(1.0, np.prod(shape) + 1)
    return np.random.default_rng([seed, *shape]).permutation(numbers).reshape(shape).astype(dtype)


def runs(move, inputs, lay):
    """What a plain call returns, and leaves in its arguments."""
    inputs = [lay(a) for a in inputs]
    result = move(*inputs)
    return [np.array(result), *inputs]


def matrix(move, inputs, lay):
    """The linear map, column by column: the plain call on unit vectors."""
    columns = []
    for k, a in enumerate(inputs):
        for i in range(a.size):
            unit = [np.zeros_like(b) for b in inputs]
            unit[k].flat[i] = 1.0
            columns.append(np.concatenate([np.ravel(r) for r in runs(move, unit, lay)]))
    return np.array(columns).T


def check(move, inputs, layout="C", tolerance=1e-12):
    """`move(*arrays)` returns an array or a number, and may write; all linear in the arrays."""
    lay = LAYOUTS[layout]
    wanted = runs(move, inputs, lay)
    outs = [np.shape(w) for w in wanted]
    J = matrix(move, inputs, lay) if sum(a.size for a in inputs) else None

    # The widths: one, two, and one that is the length of an axis.
    for width in sorted({1, 2, *(n for a in inputs for n in a.shape if n > 2)}):
        tangents = [[values(a.shape, 10 + lane, a.dtype) for a in inputs] for lane in range(width)]
        args, shadows = [lay(a) for a in inputs], [[lay(t) for t in lane] for lane in tangents]
        if width == 1:
            (derivative,) = autodiff(Forward, move, Duplicated, *map(Duplicated, args, shadows[0]))
            derivative = (derivative,)
        else:
            (derivative,) = autodiff(Forward, move, BatchDuplicated, *(
                BatchDuplicated(a, tuple(lane[k] for lane in shadows)) for k, a in enumerate(args)))
        for a, w in zip(args, wanted[1:], strict=True):
            np.testing.assert_array_equal(a, w)
        for lane in range(width):
            want = runs(move, tangents[lane], lay)
            assert np.asarray(derivative[lane]).dtype == want[0].dtype
            for got, w in zip([derivative[lane], *shadows[lane]], want, strict=True):
                assert np.shape(got) == np.shape(w)
                np.testing.assert_allclose(got, w, rtol=tolerance, err_msg=f"forward, lane {lane} of {width}")

        # Reverse: the result goes into an argument, whose adjoint is ours to choose.
        def into(out, *arrays):
            out[...] = move(*arrays)

        out = np.zeros_like(wanted[0])
        seeds = [[values(shape, 20 + lane, w.dtype) for shape, w in zip(outs, wanted, strict=True)]
                 for lane in range(width)]
        args, shadows = [out, *map(lay, inputs)], [[s.copy() for s in lane] for lane in seeds]
        if width == 1:
            autodiff(Reverse, into, cyad.Const, *map(Duplicated, args, shadows[0]))
        else:
            autodiff(Reverse, into, cyad.Const, *(
                BatchDuplicated(a, tuple(lane[k] for lane in shadows)) for k, a in enumerate(args)))
        for a, w in zip(args, wanted, strict=True):
            np.testing.assert_array_equal(a, w)
        if J is None:
            continue
        for lane in range(width):
            want = J.T @ np.concatenate([np.ravel(s) for s in seeds[lane]])
            got = np.concatenate([np.ravel(s) for s in shadows[lane][1:]])
            np.testing.assert_allclose(got, want, rtol=tolerance, err_msg=f"reverse, lane {lane} of {width}")
            assert not shadows[lane][0].any()


# ---- keys ------------------------------------------------------------------------------------------------------------

def entries(n):
    """Indices of one axis of length n, of every kind."""
    return [n - 1, -n, np.int64(1), np.array(1), slice(None), slice(None, None, -2), slice(1, None), slice(2, 2),
            [0, -1], np.array([1, 1, 0]), np.array([[0, n - 1], [1, 1]], dtype=np.uint8), np.zeros(0, int),
            np.arange(n) % 2 == 0, [True] + [False] * (n - 1)]


def shapes_that_fit(keys, shape):
    """Those that NumPy takes: arrays of shapes that do not go together are left out."""
    ids = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    for key in keys:
        try:
            ids[key]
        except IndexError:
            continue
        yield key


def keys_of(shape):
    keys = [Ellipsis, None, (), np.True_, False, (None, Ellipsis, None)]
    if len(shape) == 1:
        keys += entries(shape[0])
        keys += [(e,) for e in entries(shape[0])] + [(e, Ellipsis) for e in entries(shape[0])]
        keys += [(None, e) for e in entries(shape[0])] + [(e, None) for e in entries(shape[0])]
        keys += [range(2), (Ellipsis, [0, 0, 2]), [np.int64(1), -1], np.array([2, 0]).astype(np.int8)]
    elif len(shape) == 2:
        rows, columns = entries(shape[0]), entries(shape[1])
        keys += rows + list(itertools.product(rows, columns))
        keys += [(r, None, c) for r, c in itertools.product(rows[4:11:2], columns[1:11:2])]
        keys += [(Ellipsis, c) for c in columns] + [(None, r, Ellipsis) for r in rows]
        keys += [np.arange(np.prod(shape)).reshape(shape) % 3 == 0, np.zeros(shape, bool), np.ones(shape, bool),
                 np.ix_([0, 2], [1, 1, 0]), np.ix_(np.arange(shape[0]) > 0, [2]), np.nonzero(np.eye(*shape)),
                 np.tril_indices(3), np.diag_indices(3), (np.True_, 0), (True, [0, 1], 1)]
    else:
        some = [1, slice(None, None, -1), [1, 0], np.array([[0, 1]]), np.array([True, False, True, False])]
        keys += list(itertools.product(some[:4], some[:4], some))
        keys += [(a, Ellipsis, b) for a, b in itertools.product(some[:4], some)] + [(Ellipsis, b) for b in some]
        keys += [(np.eye(2, 3) > 0,), (np.eye(2, 3) > 0, 1), (0, np.eye(3, 4) > 0), (slice(None), np.eye(3, 4) > 0),
                 ([0, 1], slice(None), [1, 3]), ([0, 1], None, [1, 2], 3), (0, slice(None), [1, 1])]
    return list(shapes_that_fit(keys, shape))


def brief(key):
    return (repr(key) if isinstance(key, np.ndarray) else str(key)).replace("\n", "").replace(" ", "")


KEYS = [(shape, key) for shape in ((5,), (3, 4), (2, 3, 4)) for key in keys_of(shape)]
by_key = pytest.mark.parametrize("number", range(len(KEYS)), ids=lambda n: f"{KEYS[n][0]}-{brief(KEYS[n][1])}")


def test_the_table_is_as_large_as_it_looks():
    assert len(KEYS) > 350


@by_key
def test_read(number):
    shape, key = KEYS[number]
    check(lambda x: x[key], [values(shape, 1)], layout=list(LAYOUTS)[number % 4])


@by_key
def test_write(number):
    """Repeated places keep the last value, as NumPy does; the values may have to be broadcast."""
    shape, key = KEYS[number]
    x = values(shape, 1)
    picked = x[key].shape if isinstance(x[key], np.ndarray) else ()

    def assign(x, v):
        x[key] = v
        return x[key] * 2.0
    for v in {picked, picked[1:], (1,) * len(picked), ()}:
        check(assign, [x, values(v, 2)], layout=list(LAYOUTS)[(number + 1) % 4])


@by_key
def test_update(number):
    shape, key = KEYS[number]

    def update(x, v):
        x[key] += v
        x[key] *= 3.0
        x[key] -= x.reshape(-1)[0]
        return x[key]
    check(update, [values(shape, 1), values((), 3)], layout=list(LAYOUTS)[(number + 2) % 4])


@by_key
def test_add_at(number):
    """Unbuffered: repeated places count each time."""
    shape, key = KEYS[number]
    picked = np.shape(values(shape, 1)[key])

    def add(x, v):
        np.add.at(x, key, v)
        np.subtract.at(x, key, v * 0.5)
        return x
    if _takes(np.add.at, values(shape, 1), key, 1.0):
        check(add, [values(shape, 1), values(picked, 4)])


def _takes(function, *args):
    try:
        function(*args)
    except (IndexError, TypeError, ValueError):
        return False
    return True


@pytest.mark.parametrize("number", range(0, len(KEYS), 3))
def test_of_a_temporary_and_of_its_views(number):
    """Memory that is made inside, and an index of a view of it."""
    shape, key = KEYS[number]

    def f(x):
        t = np.zeros((2, *shape), x.dtype)
        t[1] = x
        t[0][key] = x[key]
        view = t[::-1][0]
        view[key] += 2.0 * x[key]
        return t[:, ...]
    check(f, [values(shape, 1)])


@pytest.mark.parametrize("dtype", [np.float32, np.complex128, np.complex64])
@pytest.mark.parametrize("number", range(0, len(KEYS), 7))
def test_other_dtypes(number, dtype):
    shape, key = KEYS[number]

    def f(x):
        y = x.copy()
        y[key] = x[key] * 2
        return y
    x = values(shape, 1, dtype)
    args, tangent = x.copy(), values(shape, 2, dtype)
    (derivative,) = autodiff(Forward, f, Duplicated, Duplicated(args, tangent))
    assert derivative.dtype == dtype
    np.testing.assert_array_equal(derivative, f(tangent))
    out, adjoint, shadow = np.zeros_like(x), values(shape, 3, dtype), np.zeros_like(x)

    def into(out, x):
        out[...] = f(x)
    autodiff(Reverse, into, cyad.Const, Duplicated(out, adjoint.copy()), Duplicated(args, shadow))
    np.testing.assert_array_equal(out, f(x))
    assert shadow.dtype == dtype
    assert np.vdot(shadow, tangent) == pytest.approx(np.vdot(adjoint, f(tangent)))


@pytest.mark.parametrize("number", range(0, len(KEYS), 5))
def test_nested(number):
    """Second derivatives of a cubic in what is picked: the plain gradient of it, differenced by hand."""
    shape, key = KEYS[number]
    x, v = values(shape, 1), values(shape, 2)

    def cubic(x):
        y = x * 1.0
        y[key] *= x[key] * x[key]
        return np.sum(y[key])

    def gradient(x):
        return cyad.gradient(Reverse, cubic, x)[0]

    direct = (gradient(x + 1e-4 * v) - gradient(x - 1e-4 * v)) / 2e-4
    (pushed,) = autodiff(Forward, gradient, Duplicated(x, v))
    np.testing.assert_allclose(pushed, direct, rtol=1e-7, atol=1e-6)
    (pulled,) = cyad.gradient(Reverse, lambda x: np.sum(gradient(x) * v), x)
    np.testing.assert_allclose(pulled, pushed, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("number", range(len(KEYS)))
def test_which_of_several_values_stays(number, monkeypatch):
    """Counted from the index alone, and tried out by an assignment."""
    shape, key = KEYS[number]
    value = values(np.shape(values(shape, 1)[key]), 2)
    tried = _repeats.tried_out(shape, key, value)
    for marks in (_repeats.MOST_MARKS, 0):   # marks; sorted
        monkeypatch.setattr(_repeats, "MOST_MARKS", marks)
        lost = np.zeros(value.shape, bool)
        found = _repeats.overwritten(shape, key, value)
        if found is not None:
            lost[found] = True
        if tried is None or not value.ndim:
            assert not lost.any()
        else:
            np.testing.assert_array_equal(lost, tried)


# ---- functions that gather and scatter -------------------------------------------------------------------------------

X, V = values((3, 4), 1), values((4,), 2)
I, N = np.array([2, 0, 2, -1]), np.array([[0, 5], [-3, 7]])
MASK = np.arange(12).reshape(3, 4) % 3 == 1
CHOICE = np.array([[0, 1, 2, 1], [2, 2, 0, 0], [1, 0, 1, 2]])


def copyto(x, v, **options):
    np.copyto(x, v, **options)
    return x


def written(function):
    """A function that writes into its first argument and returns nothing."""
    def move(x, v):
        function(x, v)
        return x
    return move


MOVES = {
    "take": lambda x: np.take(x, N),
    "take axis": lambda x: np.take(x, I, axis=1),
    "take wrap": lambda x: np.take(x, [13, -14, 5], mode="wrap"),
    "take clip": lambda x: np.take(x, [-3, 99], axis=0, mode="clip"),
    "take int": lambda x: np.take(x, 7),
    "take method": lambda x: x.take([[0, -1]], axis=0),
    "take out": lambda x: np.take(x, I, axis=1, out=np.zeros((3, 4))),
    "take_along_axis": lambda x: np.take_along_axis(x, CHOICE, axis=0),
    "take_along_axis flat": lambda x: np.take_along_axis(x, np.array([0, 11, 0]), axis=None),
    "choose": lambda x: np.choose(CHOICE, [x, 2.0 * x, x[::-1]]),
    "choose wrap": lambda x: np.choose(CHOICE + 2, [x, 3.0 * x, x[0]], mode="wrap"),
    "compress": lambda x: np.compress([True, False, True], x, axis=0),
    "compress method": lambda x: x.compress([False, True, True, True, False]),
    "extract": lambda x: np.extract(MASK, x),
    "select": lambda x: np.select([MASK, ~MASK], [x, 2.0 * x]),
    "where": lambda x: np.where(MASK, x, -x),
    "diagonal": lambda x: np.diagonal(x, 1),
    "diag": lambda x: np.diag(x),
    "diagflat": lambda x: np.diagflat(x[0]),
    "repeat": lambda x: x.repeat([1, 0, 2], axis=0),
    "delete": lambda x: np.delete(x, [1, -1], axis=1),
    "delete mask": lambda x: np.delete(x, np.array([True, False, False, True]), axis=1),
    "ix_": lambda x: x[np.ix_([2, 0], [1, 1])],
    "unravel": lambda x: x[np.unravel_index([3, 7], (3, 4))],
    "s_": lambda x: x[np.s_[1:, ::-1]],
    "flat element": lambda x: x.flat[7],
    "flat slice": lambda x: x.T.flat[2::3],
    "flat list": lambda x: x.flat[[1, 1, -1]],
    "flat mask": lambda x: x.flat[MASK.ravel()],
    "flat all": lambda x: np.stack(list(x[::-1].flat)),
    "flat array": lambda x: x.flat[N],
    "item": lambda x: x.item(5) + x.item(2, 1) + x.item((0, 3)) + x.item(-1),
    "tolist": lambda x: np.array(x.tolist()),
    "rows": lambda x: np.array([row * (i + 1) for i, row in enumerate(x)]),
    "unpacking": lambda x: [a + 2.0 * d for a, _, *_, d in x][1],
    "roll": lambda x: np.roll(x, (1, -1), axis=(0, 1)),
    "flatnonzero": lambda x: x[0][np.flatnonzero(MASK[1])],
    "argsort": lambda x: x[0][np.argsort(V)],
    "sliding": lambda x: np.lib.stride_tricks.sliding_window_view(x, (2, 2))[:, 1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MOVES)
def test_functions_that_gather(name, layout):
    check(MOVES[name], [X], layout)


def put_flat(x, v):
    """NumPy refuses this for arrays that are not in C order."""
    np.put_along_axis(x, np.array([1, 7]), v, axis=None)
    return x


def assign_flat(key):
    def write(x, v):
        x.flat[key] = v
    return write


WRITES = {
    "put": lambda x, v: np.put(x, [0, 5, -1, 7], v),
    "put short": lambda x, v: np.put(x, np.arange(9), v),
    "put long": lambda x, v: np.put(x, [2], v),
    "put method": lambda x, v: x.put([1, 1, 2], v),
    "put clip": lambda x, v: np.put(x, [-5, 99, 3], v, mode="clip"),
    "put wrap": lambda x, v: np.put(x, [-5, 99, 3], v, mode="wrap"),
    "putmask": lambda x, v: np.putmask(x, MASK, v),
    "putmask scalar": lambda x, v: np.putmask(x, MASK, v[1]),
    "place": lambda x, v: np.place(x, ~MASK, v),
    "copyto": lambda x, v: np.copyto(x, v),
    "copyto where": lambda x, v: np.copyto(x, v, where=MASK),
    "copyto where row": lambda x, v: np.copyto(x, v[2], where=np.array([True, False, True, True])),
    "put_along_axis": lambda x, v: np.put_along_axis(x, np.array([[1], [0], [3]]), v[:3, None], axis=1),
    "put_along_axis flat": lambda x, v: x.__setitem__(..., put_flat(x.copy(), v[:2])),
    "fill_diagonal": lambda x, v: np.fill_diagonal(x, v[:3]),
    "fill": lambda x, v: x.fill(v[1]),
    "flat": assign_flat(slice(None)),
    "flat slice": assign_flat(slice(1, None, 4)),
    "flat list": assign_flat([2, 2, 0]),
    "flat int": lambda x, v: x.flat.__setitem__(6, v[0]),
    "flat nothing": lambda x, v: x.flat.__setitem__(slice(2, 5), v[:0]),
    "flat mask": assign_flat(MASK.ravel()),
    "flat array": assign_flat(N),
    "add.at": lambda x, v: np.add.at(x, (slice(None), I), v),
    "add.at flat": lambda x, v: np.add.at(x.reshape(-1), [3, 3, 3, 0], v),
    "subtract.at": lambda x, v: np.subtract.at(x, I[:3], v),
    "negative.at": lambda x, v: np.negative.at(x, (I[:2], 1)),
    "repeats that lie in memory by columns": lambda x, v: x.__setitem__(
        (0, np.array([[0, 1], [1, 0]], order="F")), v.reshape(2, 2).T),
    "repeats, rows of arrays": lambda x, v: x.__setitem__(np.array([[0, 2], [2, 0]]), v[:2, None, None] + v[:2, None]),
    "out of take": lambda x, v: np.take(v, I, out=x[1]),
    "out of add": lambda x, v: np.add(v, 2.0 * v, out=x[1:, ::-1]),
    "out where": lambda x, v: np.multiply(v, 2.0, out=x, where=MASK),
    "rows": lambda x, v: [row.__setitem__(slice(1, 3), v[i]) for i, row in enumerate(x)] and None,
    "augmented flat": lambda x, v: x.flat.__setitem__(3, x.flat[3] + v[0]),
    "overlap": lambda x, v: x.__setitem__(slice(1, None), x[:-1] + v),
    "swap": lambda x, v: x.__setitem__([0, 2], x[[2, 0]]),
    "swap elements": lambda x, v: (x.__setitem__((0, 0), v[1]), v.__setitem__(1, x[2, 2])) and None,
    "list of numbers": lambda x, v: x.__setitem__(1, [v[0], 2.0 * v[1], 0.0, v[3]]),
    "list of rows": lambda x, v: x.__setitem__(slice(0, 2), [v, v[::-1]]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", WRITES)
def test_functions_that_scatter(name, layout):
    check(written(WRITES[name]), [X, V], layout)


NO_ACTIVE_VALUE = ("swap", "negative.at", "flat nothing")


@pytest.mark.parametrize("name", [n for n in WRITES if n not in NO_ACTIVE_VALUE])
def test_active_values_into_a_const_argument_are_refused(name):
    """Scattering into memory without a shadow must never pass: a derivative would be lost."""
    for mode in (Forward, Reverse):
        with pytest.raises(cyad.ActiveStoreError, match="Const"):
            autodiff(mode, lambda x, v: (WRITES[name](x, v), None)[1], cyad.Const(X.copy()),
                     Duplicated(V.copy(), np.ones(4)))


BAD_KEYS = [3, -4, (0, 4), (0, 0, 0), 1.0, "a", [0, 3], ([0, 1], [0, 1, 2]), np.array([0.5]), np.ones(4, bool),
            np.ones((2, 4), bool), (Ellipsis, Ellipsis), slice(None, None, 0), [[0], [1, 2]], np.array([1.0]),
            {"a": 1}, (slice(None), 9), (None, 0, 0, 0), 2**70]


@pytest.mark.parametrize("key", BAD_KEYS, ids=brief)
def test_what_numpy_refuses(key):
    """With NumPy's own error, and nothing changed."""
    with pytest.raises(Exception) as plain:
        X[key]
    for mode in (Forward, Reverse):
        for f in (lambda x: np.sum(x[key]), lambda x: x.__setitem__(key, x[0, 0])):
            x = X.copy()
            with pytest.raises(plain.type):
                autodiff(mode, f, Duplicated(x, np.ones_like(x)))
            np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize("value", [np.ones(3), np.ones((2, 4)), [1.0, 2.0], np.ones((3, 4, 1))], ids=np.shape)
def test_values_that_do_not_fit(value):
    def assign(x):
        x[key] = value * x[0, 0] if isinstance(value, np.ndarray) else value

    for key in (slice(None), [0, 1, 2], MASK):  # noqa: B007 (read by assign)
        with pytest.raises((TypeError, ValueError)) as plain:
            assign(X.copy())
        for mode in (Forward, Reverse):
            with pytest.raises(plain.type):
                autodiff(mode, assign, Duplicated(X.copy(), np.ones_like(X)))


@pytest.mark.parametrize("value", [np.ones(4), np.ones((1, 2)), [1.0]], ids=str)
def test_a_place_of_the_flat_iterator_takes_one_number(value):
    def assign(x):
        x.flat[6] = value * x[0, 0] if isinstance(value, np.ndarray) else [x[0, 0]]

    with pytest.raises(ValueError, match="Error setting single item"):
        assign(X.copy())
    for mode in (Forward, Reverse):
        with pytest.raises(ValueError, match="Error setting single item"):
            autodiff(mode, assign, Duplicated(X.copy(), np.ones_like(X)))


@pytest.mark.filterwarnings("ignore:Conversion of an array")
def test_a_place_of_the_flat_iterator_and_an_array_of_one_entry():
    """Which NumPy takes for a number before version 2.4, with a warning, and then no longer."""
    def f(x):
        y = x * 1.0
        try:
            y.flat[6] = np.ones(1) * x[0, 0]
        except ValueError as error:
            assert "Error setting single item" in str(error)
            y.flat[6] = -x[0, 0]
        return y

    check(f, [X])


# ---- what it costs ---------------------------------------------------------------------------------------------------

SMALL = {
    "element": lambda x: x[3] * x[5],
    "elements, written": lambda x: [x.__setitem__(7, x[3] * 2.0), x[7]][1],
    "slice": lambda x: np.sum(x[10:20] * 2.0),
    "slice, written": lambda x: [x.__setitem__(slice(0, 10), x[10:20] * 2.0), x[4]][1],
    "list": lambda x: np.sum(x[[1, 2, 1]]),
    "list, written": lambda x: [x.__setitem__([1, 2], x[3]), x[1]][1],
    "add.at": lambda x: [np.add.at(x, [1, 1, 5], x[:3] * 1.0), x[1]][1],
    "multiply.at": lambda x: [np.multiply.at(x, [1, 1, 5], x[:3] * 1.0), x[1]][1],
    "flat": lambda x: x.flat[5] + np.sum(x.flat[2:9]),
    "flat, written": lambda x: [x.flat.__setitem__(slice(2, 5), x[:3]), x[2]][1],
    "put": lambda x: [np.put(x, [1, 2], x[3]), x[1]][1],
    "take": lambda x: np.sum(np.take(x, [1, 2])),
    "item": lambda x: x.item(4) * 2.0,
    "view of a view": lambda x: np.sum(x[::-1].reshape(10, -1)[:, :3] ** 2),
    "iteration": lambda x: next(iter(x)) * 2.0,
}


@pytest.mark.parametrize("mode", [Forward, Reverse], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", SMALL)
def test_cost_is_that_of_what_is_touched(name, mode):
    """A call on 10^7 numbers, 160 megabytes with their shadow, takes no longer than one on 10^4. The bound is a third
    of what it takes to read the array once; time is the thread's own, to which no other process adds."""
    large, small = (np.ones(n) for n in (10**7, 10**4))

    def seconds(x, shadow):
        best = np.inf
        for _ in range(7):
            start = time.thread_time()
            if mode is Forward:
                autodiff(Forward, SMALL[name], Duplicated(x, shadow))
            else:
                autodiff(Reverse, SMALL[name], cyad.Active, Duplicated(x, shadow))
            best = min(best, time.thread_time() - start)
        return best

    start = time.thread_time()
    large.sum()
    once = time.thread_time() - start
    difference = seconds(large, np.zeros_like(large)) - seconds(small, np.zeros_like(small))
    assert difference < 0.3 * once, f"{difference * 1e6:.0f} us more, where reading once takes {once * 1e6:.0f} us"


FLAT = {
    "reversed": lambda x: x.flat.__setitem__(slice(None), x[::-1]),
    "shifted": lambda x: x.flat.__setitem__(slice(1, None), x[:3]),
    "picked": lambda x: x.flat.__setitem__([0, 1, 2], x[1:]),
    "repeated": lambda x: x.flat.__setitem__(slice(None), x[1:3]),
    "apart": lambda x: x.flat.__setitem__(slice(None), 2 * x),
}
ALL, LAST = np.ones(4, bool), np.array([False, True, True, True])
# NumPy copies what it is to store at integers if it overlaps, for a mask it does not.
OVERLAPPING = {
    **FLAT,
    "integers, reversed": lambda x: x.__setitem__([0, 1, 2, 3], x[::-1]),
    "integers, shifted": lambda x: x.__setitem__([1, 2, 3], x[:3]),
    "integers, repeated": lambda x: x.__setitem__([0, 0, 1], x[1:]),
    "integers, one": lambda x: x.__setitem__([0, 2, 3], x[1:2]),
    "integers, rows": lambda x: x.reshape(2, 2).__setitem__([0, 1], x.reshape(2, 2)[::-1]),
    "integers, a column": lambda x: x.reshape(2, 2).__setitem__(([0, 1], 1), x[::-2]),
    "integers, transposed": lambda x: x.reshape(2, 2).__setitem__(([[0], [1]], [[0, 1]]), x.reshape(2, 2).T),
    "integers, a leading axis": lambda x: x.__setitem__([1, 2, 3], x[None, :3]),
    "mask, reversed": lambda x: x.__setitem__(ALL, x[::-1]),
    "mask, a list": lambda x: x.__setitem__([True, False, True, True], x[:0:-1]),
    "mask, shifted": lambda x: x.__setitem__(LAST, x[:3]),
    "mask, stepped": lambda x: x[::-1].__setitem__(LAST, x[:3]),
    "mask, one": lambda x: x.__setitem__(LAST, x[1:2]),
    "mask of two axes": lambda x: x.reshape(2, 2).__setitem__(ALL.reshape(2, 2), x[::-1]),
    "mask of rows": lambda x: x.reshape(2, 2).__setitem__(ALL[:2], x.reshape(2, 2)[::-1]),
    "mask, apart": lambda x: x[:2].__setitem__(ALL[:2], x[2:]),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128])
@pytest.mark.parametrize("mode", [cyad.ForwardWithPrimal, cyad.ReverseWithPrimal])
@pytest.mark.parametrize("name", OVERLAPPING)
def test_overlapping_values_are_read_when_numpy_reads_them(name, mode, dtype):
    x, weights = np.array([1.0, 2.0, 3.0, 4.0], dtype), np.array([1.0, 10.0, 100.0, 1000.0], np.float32)

    def f(x):
        z = 1.0 * x
        OVERLAPPING[name](z)
        return np.sum(weights * np.real(z))
    (derivative,), value = cyad.gradient(mode, f, x)
    assert value == f(x)
    np.testing.assert_allclose(derivative, [f(x + e) - f(x) for e in np.eye(4, dtype=dtype)], rtol=1e-12)


@pytest.mark.parametrize("inner", [Forward, Reverse], ids=["forward", "reverse"])
@pytest.mark.parametrize("outer", [Forward, Reverse], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", ["mask, reversed", "integers, reversed", "mask of two axes"])
def test_overlapping_values_nested(name, outer, inner):
    x, weights = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 10.0, 100.0, 1000.0])

    def moved(x):
        z = 1.0 * x
        OVERLAPPING[name](z)
        return z
    source = moved(np.arange(4.0)).astype(int)
    (got,) = cyad.gradient(outer, lambda x: np.sum(x * cyad.gradient(
        inner, lambda x: np.sum(weights * moved(x)**3), x)[0]), x)
    want = np.zeros(4)
    np.add.at(want, source, weights)
    np.testing.assert_allclose(got, 9.0 * want * x**2)
