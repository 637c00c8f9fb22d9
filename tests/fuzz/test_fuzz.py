"""Random programs: plain run against forward, reverse and batched derivatives, and finite differences.

A call is the map from the arguments to (return value, arguments after the call). Forward mode pushes a direction v
through it; reverse mode pulls back (1, e), e being the shadows on entry. So the two must give the same number: the
slope along v of `return value + sum of e * arguments after the call`, which finite differences measure at two step
sizes; where these disagree (a kink, a branch that changes) they are no oracle, and the modes are still compared with
each other.

CYAD_FUZZ=N runs N programs instead of 500; run.py runs as many as one likes, from a seed.
"""
import os

import numpy as np
from cyad._second import plain_curvature
from hypothesis import HealthCheck, given, settings
from random_programs import programs

import cyad

COUNT = int(os.environ.get("CYAD_FUZZ", "500"))
DIRECTIONS = 2
BATCHED = hasattr(cyad, "BatchDuplicated")


def draw_like(rng, program, args):
    """A direction, or adjoints; nothing for Const arguments."""
    return [0.0 * a if constant else rng.normal(size=a.shape) if isinstance(a, np.ndarray) else float(rng.normal())
            for a, constant in zip(args, program.constant, strict=True)]


def shadows(program, values, same_layout):
    """Fresh shadows that hold the values: laid out in memory as the arguments are, or in plain C order."""
    out = program.values() if same_layout else [np.empty_like(a, order="C") for a in program.values()]
    for k, v in enumerate(values):
        if isinstance(v, np.ndarray):
            out[k][...] = v
        else:
            out[k] = v
    return out


def inner(a, b):
    return sum(float(np.sum(np.multiply(x, y))) for x, y in zip(a, b, strict=True))


def close(got, want, tolerance, what):
    scale = max(1.0, *(float(np.max(np.abs(w))) for w in want))
    for k, (g, w) in enumerate(zip(got, want, strict=True)):
        np.testing.assert_allclose(g, w, rtol=0.0, atol=tolerance * scale, err_msg=f"{what} (number {k})")


def plain_slope(program, f, v, e, h):
    """Of return value + e * arguments after the call, along v; numbers have no "after". And by how much the slopes of
    the two sides differ: at a tie the central difference is their mean, which is nobody's derivative."""
    def at(step):
        args = program.values(double=True)
        for k, d in enumerate(v):
            if isinstance(args[k], np.ndarray):
                args[k][...] += step * d   # in place: a sum would be laid out anew, which `a.reshape(-1)` can tell
            else:
                args[k] += step * d
        value = float(f(*args))
        return value + sum(float(np.sum(x * w)) for x, w in zip(args, e, strict=True) if isinstance(x, np.ndarray))
    left, right = at(-h), at(h)
    return (8.0 * (right - left) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h), abs(right + left - 2.0 * at(0.0)) / h


def forward(program, f, v, same_layout):
    """Tangent of the return value, tangents of the arguments after the call (0 for numbers), value, arguments."""
    args, tangents = program.values(), shadows(program, v, same_layout)
    tangent, value = cyad.autodiff(cyad.ForwardWithPrimal, f, *(
        cyad.Const(a) if constant else cyad.Duplicated(a, t)
        for a, t, constant in zip(args, tangents, program.constant, strict=True)))
    return tangent, after(tangents), value, args


def reverse(program, f, e, same_layout):
    """The gradient for each argument, value, arguments after the call."""
    args, adjoints = program.values(), shadows(program, e, same_layout)
    entries, value = cyad.autodiff(cyad.ReverseWithPrimal, f, cyad.Active, *(
        cyad.Const(a) if constant else cyad.Duplicated(a, s) if isinstance(a, np.ndarray) else cyad.Active(a)
        for a, s, constant in zip(args, adjoints, program.constant, strict=True)))
    return [s if entry is None else entry for s, entry in zip(adjoints, entries, strict=True)], value, args


def after(tangents):
    return [t if isinstance(t, np.ndarray) else 0.0 for t in tangents]


def check(program):
    f = program.function()
    left = program.values()
    value = float(f(*left))
    arrays = [a for a in left if isinstance(a, np.ndarray)]
    rng = np.random.default_rng(len(program.source))
    exact, dual, apart = (1e-12, 1e-9, 1e-5) if program.is_double() else (1e-5, 1e-3, 1e-2)
    same_layout = bool(rng.integers(2))
    e = draw_like(rng, program, left)
    gradient, got, args = reverse(program, f, e, same_layout)
    close([got, *(a for a in args if isinstance(a, np.ndarray))], [value, *arrays], exact, "reverse: value, arguments")
    for _ in range(DIRECTIONS):
        v = draw_like(rng, program, left)
        tangent, tangents, got, args = forward(program, f, v, same_layout)
        close([got, *(a for a in args if isinstance(a, np.ndarray))], [value, *arrays], exact,
              "forward: value, arguments")
        pushed, pulled = tangent + inner(e, tangents), inner(gradient, v)
        scale = max(1.0, abs(tangent), *(float(np.max(np.abs(g))) for g in gradient))
        assert abs(pushed - pulled) <= dual * scale, f"forward {pushed!r}, reverse {pulled!r}"
        (fine, bend), (coarse, wider) = (plain_slope(program, f, v, e, h) for h in (3e-5, 1e-4))
        smooth = bend <= 0.6 * wider or bend <= 1e-7 * scale   # of a kink both are the same, of a curve 0.3 to 1
        if abs(fine - coarse) <= 1e-6 * scale and scale < 1e6 and smooth:
            assert abs(pushed - coarse) <= apart * scale, f"derivative {pushed!r}, finite differences {coarse!r}"
    if BATCHED:
        check_batched(program, f, rng, same_layout, exact)
    if program.is_double() and len(program.source) % 3 == 0:   # the general path takes longer
        check_second_order(program, f, rng, same_layout)
    if program.is_double():
        check_second_sweeps(program, f, rng)


def check_second_order(program, f, rng, same_layout):
    """The gradient along a direction: forward over reverse, reverse over reverse, differences of first-order ones."""
    v, u = draw_like(rng, program, program.values()), draw_like(rng, program, program.values())

    def slopes(*args):
        derivs = cyad.gradient(cyad.Reverse, f, *(
            cyad.Const(a) if constant else a for a, constant in zip(args, program.constant, strict=True)))
        return [0.0 if d is None else d for d in derivs]

    def weighed(*args):
        return sum(np.sum(d * w) for d, w in zip(slopes(*args), u, strict=True))

    def at(step):
        args = program.values()
        for k, d in enumerate(v):
            if isinstance(args[k], np.ndarray):
                args[k][...] += step * d
            else:
                args[k] += step * d
        return float(weighed(*args))

    args, tangents = program.values(), shadows(program, v, same_layout)
    (pushed,) = cyad.autodiff(cyad.Forward, weighed, *(
        cyad.Const(a) if constant else cyad.Duplicated(a, t)
        for a, t, constant in zip(args, tangents, program.constant, strict=True)))
    zero = [0.0 * t if isinstance(t, np.ndarray) else 0.0 for t in v]
    args, adjoints = program.values(), shadows(program, zero, same_layout)
    (entries,) = cyad.autodiff(cyad.Reverse, weighed, cyad.Active, *(
        cyad.Const(a) if constant else cyad.Duplicated(a, s) if isinstance(a, np.ndarray) else cyad.Active(a)
        for a, s, constant in zip(args, adjoints, program.constant, strict=True)))
    pulled = inner([s if entry is None else entry for s, entry in zip(adjoints, entries, strict=True)], v)
    fine, coarse = ((8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h) for h in (3e-5, 1e-4))
    scale = max(1.0, abs(pushed), abs(pulled))
    assert abs(pushed - pulled) <= 1e-8 * scale, f"forward over reverse {pushed!r}, reverse over reverse {pulled!r}"
    if abs(fine - coarse) <= 1e-5 * scale and scale < 1e6:
        assert abs(pushed - coarse) <= 1e-4 * scale, f"second derivative {pushed!r}, differences {coarse!r}"


def check_batched(program, f, rng, same_layout, exact):
    """Every lane of a batch is what a call of its own gives."""
    width = int(rng.integers(1, 5))
    lanes = [draw_like(rng, program, program.values()) for _ in range(width)]

    args, tangents = program.values(), [shadows(program, v, same_layout) for v in lanes]
    tangent, _ = cyad.autodiff(cyad.ForwardWithPrimal, f, *(
        cyad.Const(a) if constant else cyad.BatchDuplicated(a, ts)
        for a, constant, *ts in zip(args, program.constant, *tangents, strict=True)))
    for k, v in enumerate(lanes):
        one, ones, _, _ = forward(program, f, v, same_layout)
        close([tangent[k], *after(tangents[k])], [one, *ones], exact, f"batched forward, lane {k} of {width}")

    args, adjoints = program.values(), [shadows(program, e, same_layout) for e in lanes]
    entries, _ = cyad.autodiff(cyad.ReverseWithPrimal, f, cyad.Active, *(
        cyad.Const(a) if constant else cyad.BatchDuplicated(a, ss) if isinstance(a, np.ndarray) else cyad.Active(a)
        for a, constant, *ss in zip(args, program.constant, *adjoints, strict=True)))
    for k, e in enumerate(lanes):
        mine = [s if entry is None else entry[k] for s, entry in zip(adjoints[k], entries, strict=True)]
        close(mine, reverse(program, f, e, same_layout)[0], exact, f"batched reverse, lane {k} of {width}")


def check_second_sweeps(program, f, rng):
    """A product with the Hessian by a sweep of second order is what forward over reverse mode gives."""
    def fresh(indices):
        values = program.values()
        return [np.array(values[k], order="C") if isinstance(values[k], np.ndarray) else values[k] for k in indices]

    moving = [k for k, constant in enumerate(program.constant) if not constant]
    fixed = [k for k, constant in enumerate(program.constant) if constant]
    directions = [draw_like(rng, program, program.values())[k] for k in moving]

    def call(*values):
        args = dict(zip(moving + fixed, values, strict=True))
        return f(*[args[k] for k in range(len(args))])

    def slopes(*leaves):
        return list(cyad.gradient(cyad.Reverse, call, *leaves, *map(cyad.Const, fresh(fixed)))[:len(moving)])

    swept = plain_curvature(call, fresh(moving), [directions], fresh(fixed))
    if swept is not None:
        with np.errstate(all="ignore"):
            tangents, gradient = cyad.autodiff(cyad.ForwardWithPrimal, slopes, *(
                cyad.Duplicated(a, np.copy(d) if isinstance(a, np.ndarray) else d)
                for a, d in zip(fresh(moving), directions, strict=True)))
        close(swept[1], gradient, 1e-12, "gradient of a sweep of second order")
        close(swept[0][0], tangents, 1e-9, "product with the Hessian")


@settings(max_examples=COUNT, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(programs())
def test_random_programs(program):
    check(program)
