"""The elementwise table against NumPy itself: no formula is restated here.

Partials are checked against finite differences of the ufunc at points from the row's domain; the C, Python and array
forms of a partial against each other; the array kernel against one line of NumPy for every memory layout.
"""
import itertools
import math
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from scipy.special import _ufuncs as scipy_ufuncs

import cyad
from cyad.rules import _kernels, expressions, table

for _name in table.SPECIAL_NAMES:
    _kernels.find(_kernels._ufunc_named(scipy_ufuncs, _name))

ROWS = [row for row in _kernels.rows_by_name.values() if row.partials]
NUMPY_ROWS = [row for row in ROWS if row.name not in table.SPECIAL_NAMES]
CURVED_ROWS = [row for row in ROWS if _kernels.scalar_partials2(row, 0.5, 0.5, 0.5) is not None]
by_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
row_named = _kernels.rows_by_name.__getitem__


def sample(row, n, dtype=np.float64, seed=0):
    """`n` points of the row's domain: an array for each operand."""
    rng = np.random.default_rng(seed)
    points = []
    for intervals in row.domain:
        low, high = np.array(intervals, float).T
        which = rng.choice(len(low), n, p=(high - low) / (high - low).sum())
        points.append(rng.uniform(low[which], high[which]).astype(dtype))
    if row.name == "ldexp":
        points[1] = np.rint(points[1])
    return points


def call(row, *operands):
    """The ufunc's output that the row differentiates, as floats."""
    if row.name == "ldexp":
        operands = operands[0], np.asarray(operands[1]).astype(np.intc)
    with np.errstate(all="ignore"):
        out = row.ufunc(*operands)
    out = np.asarray(out[0] if row.nout > 1 else out)
    return out.astype(np.result_type(operands[0])) if out.dtype == bool else out


def xyo(row, operands):
    return operands[0], operands[1] if row.nin > 1 else None, call(row, *operands)


def difference(f, operands, k, h):
    """df/d(operand k): central differences of fourth order."""
    def at(step):
        return f(*(a + step * h if j == k else a for j, a in enumerate(operands)))
    return (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h)


def by_row_and_dtype(rows):
    """Each row with float64, and with float32 where NumPy has a loop for it: not float_power, nor ldexp."""
    cases = [(row, dtype) for row in rows for dtype in (np.float64, np.float32)
             if dtype == np.float64 or any(t.startswith("f" * row.nin + "->") for t in row.ufunc.types)]
    return pytest.mark.parametrize(("row", "dtype"), cases, ids=[f"{row.name}-{t.__name__}" for row, t in cases])


def known(row):
    return [k for k, partial in enumerate(row.partials) if partial is not None]


# ---- the table -------------------------------------------------------------------------------------------------------

def test_every_float_ufunc_of_numpy_has_a_row():
    structural = {name for name in ("matmul", "vecdot", "matvec", "vecmat") if hasattr(np, name)}
    ufuncs = {u for u in vars(np).values() if isinstance(u, np.ufunc) and any("d" in t.split("->")[0] for t in u.types)}
    assert {u.__name__ for u in ufuncs if _kernels.find(u) is None} == structural


def test_op_codes_are_dense_and_rows_found_by_ufunc():
    assert sorted(row.op for row in ROWS) == list(range(len(ROWS)))
    assert all(_kernels.find(row.ufunc) is row for row in ROWS)
    assert _kernels.find(np.frompyfunc(abs, 1, 1)) is None


def test_what_a_partial_reads():
    def reads(name):
        return row_named(name).reads
    assert reads("add") == reads("negative") == reads("floor") == 0
    assert reads("multiply") == 0b001_010
    assert reads("exp") == reads("sqrt") == reads("tanh") == 0b100
    assert reads("divide") == 0b110_010
    assert row_named("heaviside").inert == 0b01 and row_named("copysign").inert == 0b10
    assert row_named("floor").zero and not row_named("copysign").zero


def test_outputs_and_composites():
    assert [row.name for row in row_named("divmod").outputs] == ["floor_divide", "remainder"]
    assert [row.name for row in row_named("modf").outputs] == ["positive", "trunc"]
    assert row_named("sin").outputs == (row_named("sin"),)
    clip = row_named("clip")
    x = np.linspace(-2, 2, 9)
    np.testing.assert_array_equal(clip.composite(x, -1.0, 0.5), np.clip(x, -1.0, 0.5))
    assert _kernels.find(np._core.umath.clip) is clip


def test_importing_the_table_does_not_import_scipy():
    code = "import sys; import cyad.rules._kernels; assert not any(m.startswith('scipy') for m in sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-P", "-c", code], check=True, env=env)


# ---- partials of numbers ---------------------------------------------------------------------------------------------

@by_row
def test_partials_against_finite_differences(row):
    operands = sample(row, 60)
    x, y, o = xyo(row, operands)
    for k in known(row):
        h = 2e-4 * np.maximum(1, abs(operands[k])) if row.name != "nextafter" else 0.1
        expected = difference(lambda *a: call(row, *a), operands, k, h)
        np.testing.assert_allclose(row.partials[k](x, y, o) + 0 * x, expected, rtol=2e-8, atol=2e-8)


@by_row
def test_c_partials_equal_python_partials(row):
    operands = sample(row, 40)
    x, y, o = xyo(row, operands)
    found = np.array([_kernels.scalar_partials(row, *point)
                      for point in zip(x, np.zeros_like(x) if y is None else y, o, strict=True)])
    for k in known(row):
        np.testing.assert_allclose(found[:, k], row.partials[k](x, y, o) + 0 * x, rtol=2e-12, atol=1e-15)


def test_second_partials_are_missing_for_functions_of_scipy_only():
    assert set(NUMPY_ROWS) < set(CURVED_ROWS)


@pytest.mark.parametrize("row", CURVED_ROWS, ids=lambda row: row.name)
def test_second_partials_against_finite_differences(row):
    operands = sample(row, 20)
    x, y, o = xyo(row, operands)
    found = np.array([_kernels.scalar_partials2(row, *point)
                      for point in zip(x, np.zeros_like(x) if y is None else y, o, strict=True)])
    for column, (i, j) in enumerate([(0, 0), (0, 1), (1, 1)]):
        if max(i, j) >= row.nin or row.partials[i] is None or row.partials[j] is None:
            continue

        def partial(*a, i=i):
            return row.partials[i](*xyo(row, a)) + 0 * x
        h = 2e-4 * np.maximum(1, abs(operands[j])) if row.name != "nextafter" else 0.1
        np.testing.assert_allclose(found[:, column], difference(partial, operands, j, h), rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("row", [row for row in NUMPY_ROWS if row.holomorphic], ids=lambda row: row.name)
def test_complex_partials(row):
    rng = np.random.default_rng(1)
    operands = [rng.normal(size=30) + 1j * rng.uniform(0.3, 1, 30) for _ in range(row.nin)]
    x, y, o = xyo(row, operands)
    for k in known(row):
        for direction in (1, 1j):
            expected = difference(lambda *a: call(row, *a), operands, k, 1e-3 * direction)
            np.testing.assert_allclose(row.partials[k](x, y, o) + 0 * x, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("row", NUMPY_ROWS, ids=lambda row: row.name)
def test_python_partials_keep_float32_and_are_silent(row):
    operands = sample(row, 10, np.float32)
    x, y, o = xyo(row, operands)
    o = o.astype(np.float32)
    zero = np.zeros_like(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for k in known(row):
            value = row.partials[k](x, y, o)
            assert isinstance(value, float) or value.dtype == np.float32
            row.partials[k](zero, zero, zero)
            row.partials[k](0.0, 0.0, 0.0)


inf, nan = np.inf, np.nan


@pytest.mark.parametrize("name, operands, expected", [
    ("absolute", (0.0,), (0,)), ("absolute", (nan,), (nan,)), ("fabs", (0.0,), (0,)),
    ("maximum", (1.0, 1.0), (0.5, 0.5)), ("minimum", (1.0, 1.0), (0.5, 0.5)),
    ("fmax", (1.0, 1.0), (0.5, 0.5)), ("fmin", (1.0, 1.0), (0.5, 0.5)),
    ("maximum", (nan, 1.0), (1, 0)), ("maximum", (1.0, nan), (0, 1)), ("maximum", (nan, nan), (1, 0)),
    ("minimum", (nan, 1.0), (1, 0)), ("minimum", (1.0, nan), (0, 1)),
    ("fmax", (nan, 1.0), (0, 1)), ("fmax", (1.0, nan), (1, 0)), ("fmin", (nan, 1.0), (0, 1)),
    ("fmin", (1.0, nan), (1, 0)),
    ("sqrt", (0.0,), (inf,)), ("hypot", (0.0, 0.0), (0, 0)), ("copysign", (0.0, -1.0), (0, 0)),
    ("copysign", (2.0, -0.0), (-1, 0)), ("heaviside", (0.0, 0.5), (0, 1)), ("heaviside", (1.0, 0.5), (0, 0)),
    ("power", (0.0, 0.0), (0, -inf)), ("power", (0.0, 2.0), (0, 0)), ("power", (0.0, 1.0), (1, 0)),
    ("power", (-2.0, 2.0), (-4, nan)), ("power", (5.0, 0.0), (0, np.log(5.0))),
    ("power", (1e-200, 2.0), (2e-200, 0)), ("frexp", (0.0,), (1,)),
    ("logaddexp", (-inf, -inf), (0.5, 0.5)), ("logaddexp", (inf, 1.0), (1, 0)), ("logaddexp", (-inf, 3.0), (0, 1)),
    ("logaddexp", (1e4, 0.0), (1, 0)), ("logaddexp", (-1e4, -1e4), (0.5, 0.5)), ("logaddexp2", (1e5, 0.0), (1, 0)),
    ("logaddexp2", (inf, inf), (0.5, 0.5)), ("logaddexp", (nan, 1.0), (nan, nan)), ("logaddexp", (-inf, inf), (0, 1)),
    ("arcsin", (1.0,), (inf,)), ("arcsin", (-1.0,), (inf,)), ("arccos", (1.0,), (-inf,)), ("arccos", (-1.0,), (-inf,)),
    ("log_expit", (800.0,), (0,)), ("log_expit", (-800.0,), (1,)), ("log_expit", (40.0,), (np.exp(-40.0),)),
    ("arcsinh", (1e200,), (1e-200,)), ("arcsinh", (-1e200,), (1e-200,)), ("arccosh", (1e200,), (1e-200,)),
    ("arctan2", (1e200, 1e200), (5e-201, -5e-201)), ("arctan2", (1e-200, 1e-200), (5e199, -5e199)),
    ("arctan2", (0.0, 2.0), (0.5, 0)), ("arctan2", (2.0, 0.0), (0, -0.5)), ("hypot", (1e200, 0.0), (1, 0)),
    ("remainder", (1.0, 0.1), (1, -9)), ("fmod", (-7.0, 3.0), (1, 2)), ("remainder", (-7.0, 3.0), (1, 3)),
    ("expit", (800.0,), (0,)), ("expit", (-800.0,), (0,)), ("expit", (40.0,), (np.exp(-40.0),)),
    ("i1", (0.0,), (0.5,)), ("j1", (0.0,), (0.5,)), ("xlogy", (0.0, 0.0), (-inf, 0)),
])
def test_conventions_and_extremes(name, operands, expected):
    row = row_named(name)
    x, y, o = xyo(row, [np.float64(a) for a in operands])
    o = np.float64(o)
    found = _kernels.scalar_partials(row, x, 0.0 if y is None else y, o)
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    np.testing.assert_allclose([p(x, y, o) for p in row.partials], expected, rtol=1e-14)
    x, y, o = (None if a is None else np.full(5, a) for a in (x, y, o))
    for k in range(row.nin):
        target = np.zeros(5)
        assert not _kernels.accumulate_arrays(row, k, x, y, o, np.ones(5), target, shape=(5,))
        np.testing.assert_allclose(target, np.full(5, expected[k], float), rtol=1e-14)
        np.testing.assert_allclose(row.partials[k](x, y, o) + 0 * np.ones(5), target, rtol=1e-14)


# ---- values of numbers -----------------------------------------------------------------------------------------------

@by_row_and_dtype(row for row in ROWS if row.scalar)
def test_values_are_those_of_numpy_to_the_last_bit(row, dtype):
    f32 = dtype == np.float32
    operands = [np.r_[a, np.array([0.0, -0.0, 1.0, -1.0, 2.0, 0.5, inf, -inf, nan, 1e30, 1e-30])].astype(dtype)
                for a in sample(row, 200, dtype)]
    with np.errstate(all="ignore"):
        for point in zip(*operands, strict=True):
            expected = row.ufunc(*point)
            found = _kernels.scalar_value(row, *map(float, point), f32=f32)
            assert dtype(found).tobytes() == dtype(expected).tobytes() or (found != found and expected != expected)


@pytest.mark.parametrize("f32", [False, True])
@pytest.mark.parametrize("exponent", [None, 2.0, 0.5, -1.0, 3.0, 0.0, -0.5])
def test_powers_of_numbers(f32, exponent):
    """`**` of a NumPy number is libm's pow, np.power its own loop: they round differently."""
    dtype = np.float32 if f32 else np.float64
    rng = np.random.default_rng(2)
    for x in rng.uniform(0, 10, 500).astype(dtype):
        y = dtype(rng.uniform(-5, 5) if exponent is None else exponent)
        assert _kernels.power_of_numbers(x, y, f32=f32) == x ** y
        assert _kernels.scalar_value(row_named("power"), x, y, f32=f32) == np.power(x, y)


def test_array_values_and_their_warnings():
    out = np.empty(5)
    x = np.linspace(-1, 1, 5)
    assert _kernels.evaluate_arrays(row_named("sin"), x, None, out) == 0
    np.testing.assert_array_equal(out, np.sin(x))
    assert _kernels.evaluate_arrays(row_named("divide"), x, np.array(0.0), out) == 1
    assert _kernels.evaluate_arrays(row_named("multiply"), x, np.array(3.0), out) == 0
    np.testing.assert_array_equal(out, x * 3)
    assert _kernels.evaluate_arrays(row_named("sqrt"), x, None, out) == 1
    assert _kernels.evaluate_arrays(row_named("exp"), np.full(5, 1e3), None, out) == 1
    assert _kernels.evaluate_arrays(row_named("isnan"), x, None, out) == -1


# ---- the array kernel ------------------------------------------------------------------------------------------------

def reduced(full, shape):
    """`full` summed over the axes along which `shape` does not move."""
    full = full.sum(axis=tuple(range(full.ndim - len(shape))), dtype=np.float64)
    axes = tuple(i for i, n in enumerate(shape) if n == 1 and full.shape[i] != 1)
    return full.sum(axis=axes, keepdims=True)


def check(row, k, x, y, o, seed, target, shape, lanes=None, **how):
    """The kernel against NumPy: `target` is worked on in place."""
    partial = np.broadcast_to(np.asarray(row.partials[k](x, y, o)), shape)
    with np.errstate(all="ignore"):
        expected = np.stack([reduced(np.broadcast_to(s, shape) * partial, t.shape) + (0 if how.get("assign") else t)
                             for s, t in zip(*((seed, target) if lanes else ([seed], [target])), strict=True)])
    if lanes is None:
        expected = expected[0]
    assert _kernels.accumulate_arrays(row, k, x, y, o, seed, target, shape=shape, lanes=lanes, **how) == 0
    rtol = 1e-12 if target.dtype == np.float64 else 2e-5
    scale = max(1.0, np.max(np.abs(expected), initial=0)) if target.size else 1
    np.testing.assert_allclose(target, expected, rtol=rtol, atol=rtol * scale)


def memory(shape, layout, dtype, rng):
    """Numbers in (0.2, 1) of that shape, laid out in some way."""
    size = tuple(2 * n + 1 for n in shape) if layout == "strided" else shape
    a = np.asarray(rng.uniform(0.2, 1, size), dtype)
    if not shape:
        return a
    if layout == "strided":
        return a[tuple(slice(1, 2 * n, 2) for n in shape)]
    if layout == "fortran":
        return np.asfortranarray(a)
    if layout == "reversed":
        return a[(slice(None, None, -1),) * len(shape)]
    return a


KERNEL_ROWS = [row_named(name) for name in ("add", "multiply", "divide", "power", "maximum", "arctan2", "logaddexp")]
SHAPES = [(), (1,), (3,), (0,), (7, 0), (40,), (600,), (3, 4), (4, 1, 3), (1, 5, 1), (2, 70, 3), (70, 2), (33, 65),
          (130, 90), (2, 3, 2, 3, 2)]
LAYOUTS = ["plain", "fortran", "reversed", "strided"]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("row", KERNEL_ROWS, ids=lambda row: row.name)
def test_layouts(row, shape, dtype):
    rng = np.random.default_rng(3)
    for layouts in itertools.chain(itertools.product(LAYOUTS, repeat=2), [("plain", "plain")]):
        x, y, o, seed, target = (memory(shape, layouts[j % 2], dtype, rng) for j in range(5))
        for k, assign in itertools.product(range(2), (False, True)):
            check(row, k, x, y, o, seed, target, shape, assign=assign)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("row", KERNEL_ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("shape", [(3,), (40,), (1000,), (3, 4), (70, 2), (2, 70), (33, 65), (5, 1, 3), (4, 600, 2)],
                         ids=str)
def test_broadcast_operands_and_reductions(row, shape, dtype):
    rng = np.random.default_rng(4)
    kinds = [shape, (1,) * len(shape), shape[-1:], shape[:-1] + (1,), ()]
    for x_shape, seed_shape, target_shape in itertools.product(kinds, kinds[:3], kinds):
        x, y, o = (memory(s, "plain", dtype, rng) for s in (x_shape, kinds[2], shape))
        seed, target = (memory(s, "plain", dtype, rng) for s in (seed_shape, target_shape))
        for k in range(2):
            check(row, k, x, y, o, seed, target, shape)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("row", KERNEL_ROWS, ids=lambda row: row.name)
def test_lanes_are_not_axes(row, lanes, dtype):
    """Widths that equal the length of an axis, too."""
    rng = np.random.default_rng(5)
    for shape in [(), (lanes,), (3, lanes), (lanes, 4), (lanes, lanes), (lanes, 40)]:
        kinds = [shape, shape[-1:], ()] + [shape[:-1] + (1,)] * bool(shape)
        for seed_shape, target_shape in itertools.product(kinds, kinds):
            x, y, o = (memory(s, "plain", dtype, rng) for s in (shape, shape[-1:], shape))
            seed, target = (memory((lanes, *s), "plain", dtype, rng) for s in (seed_shape, target_shape))
            for k in range(2):
                check(row, k, x, y, o, seed, target, shape, lanes=lanes)
                if target_shape == shape:
                    check(row, k, x, y, o, seed, target, shape, lanes=lanes, assign=True)


@pytest.mark.parametrize("seed", range(8))
def test_random_geometry(seed):
    """Any number of axes, any mixture of broadcasting, order, direction and lanes."""
    rng = np.random.default_rng(seed)
    for _ in range(150):
        ndim = rng.integers(0, 7)
        sizes = [1, 2, 3, 5] if ndim > 3 else [1, 2, 7, 33, 80]
        shape = tuple(int(n) for n in rng.choice(sizes, ndim))
        dtype = [np.float64, np.float32][rng.integers(2)]
        lanes = [None, 1, 2, 3, 5][rng.integers(5)]

        def operand(front=(), shape=shape, ndim=ndim, dtype=dtype):
            kept = tuple(n if rng.random() < 0.7 else 1 for n in shape)
            order = rng.permutation(ndim)
            a = rng.uniform(0.2, 1, (*front, *(kept[i] for i in order))).astype(dtype)
            a = a.transpose(*range(len(front)), *(len(front) + np.argsort(order)))
            flips = tuple(slice(None, None, [1, -1][rng.integers(2)]) for _ in kept)
            return a[(slice(None),) * len(front) + flips] if ndim else a
        front = () if lanes is None else (lanes,)
        row = KERNEL_ROWS[rng.integers(len(KERNEL_ROWS))]
        target = operand(front)
        check(row, rng.integers(2), operand(), operand(), operand(), operand(front), target, shape, lanes=lanes,
              assign=bool(target.shape[len(front):] == shape and rng.integers(2)), strong=bool(rng.integers(2)))


def test_the_largest_number_of_axes():
    x = np.arange(2.0**16).reshape((1,) * 32 + (2,) * 16 + (1,) * 16)
    turned = x.transpose((*range(32), *range(47, 31, -1), *range(48, 64)))
    multiply = row_named("multiply")
    for y, seed in itertools.product((x, turned), repeat=2):
        total, each = np.zeros(()), np.ones_like(x)
        assert not _kernels.accumulate_arrays(multiply, 0, None, y, None, seed, total, shape=x.shape)
        assert not _kernels.accumulate_arrays(multiply, 0, None, y, None, seed, each, shape=x.shape)
        assert total == np.vdot(y, seed)
        np.testing.assert_array_equal(each, 1 + y * seed)


@by_row_and_dtype(ROWS)
def test_every_row_over_arrays(row, dtype):
    """Large enough for several blocks; the second operand plain, and a single number."""
    operands = sample(row, 1100, dtype)
    rng = np.random.default_rng(6)
    for y_size in (1100, 1)[:row.nin]:
        operands[1:] = [a[:y_size] for a in operands[1:]]
        x, y, o = xyo(row, operands)
        o = o.astype(dtype)
        for k in known(row):
            seed, target = rng.normal(size=(2, 1100)).astype(dtype)
            partial = row.partials[k](x, y, o) + 0 * x
            expected = target + seed * partial
            status = _kernels.accumulate_arrays(row, k, x, y, o, seed, target, shape=(1100,))
            assert status == 0 or (dtype == np.float32 and row.name in table.SPECIAL_NAMES)
            tolerance = 1e-12 if dtype == np.float64 else 3e-5
            if status == 0:
                np.testing.assert_allclose(target, expected, rtol=tolerance, atol=tolerance * np.max(np.abs(expected)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", [3, 40, 2000])
def test_strong_zeros(n, dtype):
    row, root = row_named("reciprocal"), row_named("sqrt")
    o = np.full(n, inf, dtype)
    seed = np.zeros(n, dtype)
    for target_shape in [(n,), ()]:
        plain, strong = np.ones(target_shape, dtype), np.ones(target_shape, dtype)
        _kernels.accumulate_arrays(row, 0, None, None, o, seed, plain, shape=(n,))
        _kernels.accumulate_arrays(row, 0, None, None, o, seed, strong, shape=(n,), strong=True)
        assert np.isnan(plain).all() and (strong == 1).all()
        _kernels.accumulate_arrays(root, 0, None, None, np.zeros(n, dtype), seed, strong, shape=(n,))
        assert (strong == 1).all()
    target = np.full(n, nan, dtype)
    _kernels.accumulate_arrays(row, 0, None, None, o, seed, target, shape=(n,), strong=True, assign=True)
    assert (target == 0).all()


def test_in_place_seed_and_target():
    rng = np.random.default_rng(7)
    for n in (3, 1000):
        x, seed = rng.normal(size=(2, n))
        expected = seed * np.cos(x)
        _kernels.accumulate_arrays(row_named("sin"), 0, x, None, None, seed, seed, shape=(n,), assign=True)
        np.testing.assert_allclose(seed, expected, rtol=1e-14)


def test_a_partial_that_is_zero_or_missing():
    target = np.ones(4)
    operands = np.ones(4), np.ones(4), np.ones(4), np.full(4, nan), target
    floor = row_named("floor")
    assert _kernels.accumulate_arrays(floor, 0, *operands, shape=(4,)) == 0 and (target == 1).all()
    assert _kernels.accumulate_arrays(floor, 0, *operands, shape=(4,), assign=True) == 0 and (target == 0).all()
    assert _kernels.accumulate_arrays(row_named("ldexp"), 1, *operands, shape=(4,)) == -1


CALLS_OF_REFUSED = {
    "arrays": lambda f, at: f(*at),
    "numbers": lambda f, at: f(*[a[0] for a in at]),
    "a number and an array": lambda f, at: np.sum(f(at[0][0], at[1])),
    "an array and a number": lambda f, at: np.sum(f(at[0], at[1][0])),
    "lists": lambda f, at: f(list(at[0]), at[1]),
    "out": lambda f, at: f(*at, out=np.zeros(3)),
    "where": lambda f, at: f(*at, out=np.zeros(3), where=[True, False, True]),
    "outer": lambda f, at: f.outer(*at),
    "complex": lambda f, at: f(*[a * (1 + 0j) for a in at]),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("form", CALLS_OF_REFUSED)
@pytest.mark.parametrize("row", [row for row in ROWS if None in row.partials], ids=lambda row: row.name)
def test_an_active_operand_without_partial_is_refused_when_it_is_met(row, form, dtype):
    k = row.partials.index(None)
    points = [p.astype(dtype) for p in sample(row, 3)]
    for mode in (cyad.Forward, cyad.Reverse):
        reached = []

        def f(v, reached=reached):
            at = points[:k] + [v] + points[k + 1:]
            if row.name == "ldexp":
                at = [points[0], v]   # which takes no floats there
            CALLS_OF_REFUSED[form](row.ufunc, at)
            reached.append(form)
            return np.sum(v)
        with pytest.raises((cyad.errors.MissingRuleError, TypeError)):
            cyad.gradient(mode, f, points[k])
        assert not reached


def test_sums_do_not_lose_digits():
    n = 10**6
    tenth = np.full(n, 0.1, np.float32)
    total = np.zeros((), np.float32)
    _kernels.accumulate_arrays(row_named("add"), 0, None, None, None, tenth, total, shape=(n,))
    assert total == np.float32(float(tenth[0]) * n)
    rows = np.zeros(4, np.float32)
    _kernels.accumulate_arrays(row_named("add"), 0, None, None, None, tenth.reshape(-1, 4), rows, shape=(n // 4, 4))
    np.testing.assert_array_equal(rows, np.float32(float(tenth[0]) * (n // 4)))
    wide = np.zeros(100, np.float32)
    _kernels.accumulate_arrays(row_named("add"), 0, None, None, None, tenth.reshape(-1, 100), wide,
                               shape=(n // 100, 100))
    np.testing.assert_array_equal(wide, np.float32(float(tenth[0]) * (n // 100)))
    exact = np.zeros(())
    values = np.r_[np.full(512, 1e16), np.ones(512), np.full(512, -1e16)]
    _kernels.accumulate_arrays(row_named("add"), 0, None, None, None, values, exact, shape=values.shape)
    assert exact == 512


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_copy_add(dtype):
    rng = np.random.default_rng(8)
    for shape, axes, lanes in itertools.product([(3,), (5, 40), (40, 5)], (0, 1, 2), [None, 1, 3, 5]):
        target_shape = shape[axes:]
        front = () if lanes is None else (lanes,)
        source, target = (rng.normal(size=front + s).astype(dtype) for s in (shape, target_shape))
        for assign in (False, True)[:1 + (target_shape == shape)]:
            change = [reduced(0.25 * s, target_shape) for s in (source if front else source[None])]
            expected = (0 if assign else target) + (np.stack(change) if front else change[0])
            assert not _kernels.accumulate_arrays(row_named("add"), 0, None, None, None, source, target, shape=shape,
                                                  lanes=lanes, assign=assign, scale=0.25)
            np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-5 if dtype == np.float32 else 1e-13)


# ---- expressions -----------------------------------------------------------------------------------------------------

def test_expressions_share_and_refuse():
    e = expressions.parse("exp(x - o)/(1 + exp(x - o))")
    assert sum(n.op == "exp" for n in expressions.walk(e)) == 1
    assert expressions.parse("2/sqrt(pi)").op == "const"
    for text in ("x + q", "open(x)", "x < y < o", "x if y else o", "x[0]"):
        with pytest.raises((SyntaxError, ValueError)):
            expressions.parse(text)


# ---- the same through calls ------------------------------------------------------------------------------------------

UNARY_SHAPES = [((3,),), ((2, 3),), ((3, 2),), ((2, 1, 3),)]
BINARY_SHAPES = [((3,), (3,)), ((3,), (2, 3)), ((2, 3), (3,)), ((2, 1), (3,)), ((2, 3), ()), ((), (3, 2)),
                 ((3, 2), (3, 1)), ((2, 3, 2), (3, 2)), ((1, 2), (2, 3, 2)), ((2, 2), (2,))]


def points(row, shapes):
    """Operands of these shapes from the row's domain."""
    operands = [a[:math.prod(shape)].reshape(shape) if shape else float(a[0])
                for a, shape in zip(sample(row, 24, seed=9), shapes, strict=True)]
    if row.name == "ldexp":
        operands[1] = np.asarray(operands[1]).astype(np.intc)
    return operands


@pytest.mark.parametrize("row", NUMPY_ROWS, ids=lambda row: row.name)
def test_batches_are_single_calls_side_by_side(row):
    """With as many lanes as an axis is long, where a lane axis could be taken for another; operands of any rank."""
    rng = np.random.default_rng(10)
    for shapes in BINARY_SHAPES if row.nin == 2 else UNARY_SHAPES:
        operands = points(row, shapes)
        active = [k for k in known(row) if row.partials[k] is not None and not (row.name == "ldexp" and k)]

        def f(*args, out=None):
            result = row.ufunc(*args)
            result = result[0] if row.nout > 1 else result
            if out is None:
                return result
            out[...] = result

        shape = np.shape(f(*operands))
        floats = np.asarray(f(*operands)).dtype.kind == "f"
        for width in sorted({1, 2, *(n for s in shapes for n in s)}):
            tangents = [[rng.normal(size=s) if s else float(rng.normal()) for s in shapes] for _ in range(width)]

            def annotated(annotation, pick, active=active, operands=operands):
                return [annotation(a.copy() if isinstance(a, np.ndarray) else a, pick(k)) if k in active
                        else cyad.Const(a) for k, a in enumerate(operands)]

            if floats:
                (many,) = cyad.autodiff(cyad.Forward, f, cyad.BatchDuplicated, *annotated(
                    cyad.BatchDuplicated, lambda k, tangents=tangents: tuple(t[k] for t in tangents)))
                for t, lane in zip(tangents, many, strict=True):
                    (one,) = cyad.autodiff(cyad.Forward, f, cyad.Duplicated, *annotated(
                        cyad.Duplicated, lambda k, t=t: t[k]))
                    np.testing.assert_allclose(lane, one, rtol=1e-13, atol=1e-15)

            seeds = [rng.normal(size=shape) for _ in range(width)]

            def pulled(seeds, operands=operands, active=active, shape=shape):
                """What comes back, one list for each lane."""
                lanes = len(seeds)
                shadows = [[np.zeros(np.shape(a)) for a in operands] for _ in range(lanes)]
                arguments = []
                for k, a in enumerate(operands):
                    if k not in active:
                        arguments.append(cyad.Const(a))
                    elif not isinstance(a, np.ndarray):
                        arguments.append(cyad.Active(a))
                    else:
                        arguments.append(cyad.BatchDuplicated(a.copy(), tuple(s[k] for s in shadows)))
                out = cyad.BatchDuplicated(np.zeros(shape), tuple(s.copy() for s in seeds))
                (entries,) = cyad.autodiff(
                    cyad.Reverse, lambda out, *args: f(*args, out=out), cyad.Const, out, *arguments)
                return [[s if not isinstance(a, cyad.Active) else e[lane] for s, a, e in
                         zip(shadows[lane], arguments, entries[1:], strict=True)] for lane in range(lanes)]

            for seed, lane in zip(seeds, pulled(seeds), strict=True):
                (one,) = pulled([seed])
                for a, b in zip(lane, one, strict=True):
                    np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)
