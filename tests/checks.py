"""One check that every table of calls shares: value, forward, batched and reverse, against finite differences.

`check(function, inputs)` calls the function on plain arrays first: values, dtypes, shapes and warnings inside a
differentiated call must be those of the plain one. Derivatives are those of the result's float entries, and of what the
call leaves in its inputs.
"""
import warnings

import numpy as np

import cyad


def leaves(value):
    """The float entries of a result, in order."""
    if isinstance(value, (tuple, list)):
        return [leaf for v in value for leaf in leaves(v)]
    if isinstance(value, dict):
        return leaves(list(value.values()))
    return [value] if np.asarray(value).dtype.kind in "fc" else []


def copies(inputs):
    return [x.copy() if isinstance(x, np.ndarray) else x for x in inputs]


def weights_like(value):
    """Fixed weights for the entries of a result, complex where it is."""
    rng = np.random.default_rng(99 + np.size(value))
    w = rng.uniform(0.5, 1.5, np.shape(value)) * rng.choice([-1.0, 1.0], np.shape(value))
    return w + 1j * rng.uniform(0.5, 1.5, np.shape(value)) if np.iscomplexobj(value) else w


def run(function, inputs):
    """The result, the inputs as the call leaves them, and its warnings."""
    inputs = copies(inputs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*inputs)
    return result, inputs, sorted({(w.category.__name__, str(w.message)) for w in caught})


def contracted(result, weights):
    """A real number with every float entry of a result in it."""
    total = 0.0
    for leaf, w in zip(leaves(result), weights, strict=True):
        if np.iscomplexobj(w):
            total = total + np.sum(np.real(leaf) * w.real) + np.sum(np.imag(leaf) * w.imag)
        else:
            total = total + np.sum(leaf * w)
    return total


def same_kind(got, want, path="result"):
    """Structure, dtype, shape and values, to the last few bits."""
    if isinstance(want, (tuple, list)):
        assert isinstance(got, type(want)), f"{path}: {type(got).__name__}, not {type(want).__name__}"
        assert len(got) == len(want), f"{path}: {len(got)} entries, not {len(want)}"
        for i, (a, b) in enumerate(zip(got, want, strict=True)):
            same_kind(a, b, f"{path}[{i}]")
        return
    if isinstance(want, dict):
        assert list(got) == list(want), path
        same_kind(list(got.values()), list(want.values()), path)
        return
    assert isinstance(got, np.ndarray) == isinstance(want, np.ndarray), f"{path}: {type(got)}, not {type(want)}"
    if isinstance(want, (np.ndarray, np.generic, float, complex)):
        dtype = np.asarray(want).dtype
        assert np.asarray(got).dtype == dtype, f"{path}: {np.asarray(got).dtype}, not {dtype}"
        assert np.shape(got) == np.shape(want), f"{path}: shape {np.shape(got)}, not {np.shape(want)}"
        if dtype.kind in "fc":
            relative, absolute = (1e-5, 1e-6) if dtype in (np.float32, np.complex64) else (1e-12, 1e-13)
            np.testing.assert_allclose(got, want, rtol=relative, atol=absolute, err_msg=path)
        else:
            np.testing.assert_array_equal(got, want, path)
    else:
        assert got == want or got is want, f"{path}: {got!r}, not {want!r}"


def moved(x, tangent, step):
    """The input a step along a tangent."""
    if isinstance(x, np.ndarray):
        return x + np.asarray(step * tangent, x.dtype)
    return type(x)(x + step * tangent)


def slopes(function, inputs, tangents, step):
    """Central differences of the result's entries and of the inputs after the call, along a tangent."""
    sides = []
    for h in (step, -step):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result, after, _ = run(function, [moved(x, t, h) for x, t in zip(inputs, tangents, strict=True)])
        sides.append(leaves(result) + [a for a in after if isinstance(a, np.ndarray)])
    wide = [[np.asarray(a, np.result_type(a, np.float64)) for a in side] for side in sides]
    with np.errstate(all="ignore"):
        return [(a - b) / (2 * step) for a, b in zip(*wide, strict=True)]


def close(got, want, tolerance, what):
    assert len(got) == len(want), f"{what}: {len(got)} derivatives, not {len(want)}"
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        scale = max(1.0, float(np.nanmax(np.abs(b), initial=0)))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale, err_msg=f"{what}, entry {i}")


def seeds(inputs, seed):
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, np.shape(x)).astype(x.dtype) if isinstance(x, np.ndarray) else float(rng.uniform(-1, 1))
            for x in inputs]


def widths_of(inputs):
    """2, and a batch as wide as an axis is long: where a lane axis could be taken for another."""
    return sorted({2, *(n for x in inputs for n in np.shape(x) if 1 < n < 6)})


def quietly(call, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args)


def check(function, inputs, *, tolerance=1e-6, step=1e-5, strict=True):
    """Everything about one call; `function` takes the inputs (float arrays, numbers) and may write into them."""
    want, after, warned = run(function, inputs)
    weights = [weights_like(leaf) for leaf in leaves(want)]
    tangents = seeds(inputs, 1)
    expected = slopes(function, inputs, tangents, step)

    # Forward, one lane.
    args, shadows = copies(inputs), copies(tangents)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        derivative, got = cyad.autodiff(cyad.ForwardWithPrimal, function, cyad.Duplicated,
                                        *map(cyad.Duplicated, args, shadows))
    same_kind(got, want)
    for a, b in zip(args, after, strict=True):
        same_kind(a, b, "an input after the call")
    if strict:
        assert sorted({(w.category.__name__, str(w.message)) for w in caught}) == warned
    pushed = leaves_of_tangent(derivative, want) + [s for s in shadows if isinstance(s, np.ndarray)]
    close(pushed, expected, tolerance, "forward")

    # Forward, batched.
    for width in widths_of(inputs):
        many = [seeds(inputs, 10 + lane) for lane in range(width)]
        kept = [copies(m) for m in many]
        derivatives = quietly(lambda kept=kept: cyad.autodiff(
            cyad.Forward, function, cyad.BatchDuplicated,
            *(cyad.BatchDuplicated(x, tuple(k[i] for k in kept)) for i, x in enumerate(copies(inputs)))))[0]
        for lane in range(width):
            pushed = leaves_of_tangent(derivatives[lane], want) + [s for s in kept[lane] if isinstance(s, np.ndarray)]
            close(pushed, slopes(function, inputs, many[lane], step), tolerance, f"lane {lane} of {width}")

    # Reverse: the weights on the result, and an adjoint of what the inputs are after the call.
    cotangents = seeds(inputs, 3)

    def scalar(*xs):
        return contracted(function(*xs), weights) + 0.0 * np.sum(xs[0])

    shadows = copies(cotangents)
    args = copies(inputs)
    annotated = [cyad.Duplicated(x, s) if isinstance(x, np.ndarray) else cyad.Active(x)
                 for x, s in zip(args, shadows, strict=True)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        entries, _ = cyad.autodiff(cyad.ReverseWithPrimal, scalar, cyad.Active, *annotated)
    if strict:
        assert sorted({(w.category.__name__, str(w.message)) for w in caught}) == warned
    for a, b in zip(args, after, strict=True):
        same_kind(a, b, "an input after the reverse sweep")
    pulled = [s if e is None else e for e, s in zip(entries, shadows, strict=True)]
    forward = sum(float(np.sum(w.real * d.real) + (np.sum(w.imag * d.imag) if np.iscomplexobj(w) else 0))
                  for w, d in zip(weights, expected[:len(weights)], strict=True))
    changed = [c for c, x in zip(cotangents, inputs, strict=True) if isinstance(x, np.ndarray)]
    forward += sum(float(np.sum(c * d)) for c, d in zip(changed, expected[len(weights):], strict=True))
    backward = sum(float(np.sum(p * t)) for p, t in zip(pulled, tangents, strict=True))
    size = 1.0 + sum(float(np.sum(np.abs(p * t))) for p, t in zip(pulled, tangents, strict=True))
    assert abs(forward - backward) <= tolerance * size * 10, f"reverse {backward}, finite differences {forward}"
    for p, x in zip(pulled, inputs, strict=True):
        assert np.shape(p) == np.shape(x)
        if isinstance(x, np.ndarray):
            assert p.dtype == x.dtype
    return pulled


def leaves_of_tangent(tangent, primal):
    """The entries of a tangent that belong to float entries of the primal."""
    if isinstance(primal, (tuple, list)):
        return [leaf for t, p in zip(tangent, primal, strict=True) for leaf in leaves_of_tangent(t, p)]
    if isinstance(primal, dict):
        return [leaf for key in primal for leaf in leaves_of_tangent(tangent[key], primal[key])]
    return [tangent] if np.asarray(primal).dtype.kind in "fc" else []
