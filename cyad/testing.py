"""Checks of derivatives, for rules and for whole functions: `check_forward`, `check_reverse`, `check_grads`.

They see a call as `autodiff` does, as a map G: (inputs) -> (return value, inputs after the call), and compare its
derivative with finite differences of the plain function, which knows nothing of rules. Reverse mode starts from random
shadows, because a rule that assigns where it should add is right as long as they are zero; the adjoint of a return is
random too, because a rule that forgets to multiply by it is right as long as it is one.

Differences are central, of fourth order: four calls of the function for a direction, with an error of some 1e-13 of the
values where the function is smooth on the scale of the step. Forward mode needs one direction; reverse mode one for
each entry of an input, so that a message can name the entry. Of an array with more than `ENTRIES` entries that many are
drawn, and a random direction through all of them is compared besides.

Arguments that overlap in memory are copied as they lie, and their shadows made to overlap likewise.

Rejected: comparing the modes with each other (a rule wrong in both passes); complex steps (most functions that are
worth a rule do not take complex numbers); one random direction in reverse mode (a message could not say where).
"""
import copy
import functools
import itertools
import warnings

import numpy as np

from cyad._structures import flatten, is_leaf, is_structure
from cyad.activity import (
    Active,
    Annotation,
    BatchDuplicated,
    BatchMixedDuplicated,
    Const,
    Duplicated,
    Forward,
    ForwardWithPrimal,
    MixedDuplicated,
    Ref,
    Reverse,
    ReverseWithPrimal,
)
from cyad.api import autodiff
from cyad.errors import ActivityError

__all__ = ["check_forward", "check_grads", "check_reverse"]

ENTRIES = 200                                          # of one argument, that reverse mode is compared at one by one
STENCIL = ((1, 8 / 12), (-1, -8 / 12), (2, -1 / 12), (-2, 1 / 12))


# ---- what is checked ------------------------------------------------------------------------------------------------

def check_forward(f, RT, *pairs, rtol=None, atol=None, step=None, rng=None, kwargs=None, width=2):
    """Checks forward mode of ``f(*values, **kwargs)`` against finite differences; each pair is (value, activity).

    ``check_forward(f, Duplicated, (x, Duplicated), (y, Const))``

    With random tangents v of the inputs it compares G(inputs) and G'(inputs) v: the value and its tangent, every
    argument after the call and its shadow, entry by entry; whether results that are views of an argument have tangents
    that are views of its shadow; and what the mode without primal returns. ``RT`` is the activity of the return (Const,
    Duplicated or DuplicatedNoNeed, or None to have `autodiff` choose); activities of arguments are Const, Duplicated,
    DuplicatedNoNeed and their batches, which get `width` lanes.

    An entry may be off by ``rtol`` of itself plus ``atol`` times the largest value that the function returns or leaves
    (or one, if that is more). By default these are eps**0.45 and eps**0.55 of the dtype: 1e-7 and 2e-9, in single
    precision 8e-4 and 2e-4. ``step`` is the distance of the differences (by default eps**0.2, 7e-4): make it smaller
    where the function has a kink or an end of its domain that near. ``rng`` is a numpy.random.Generator or the seed of
    one, which is fixed by default. ``kwargs`` is a dict of arguments without derivatives.

    Raises AssertionError, with a message that names the argument and the entry with the largest error and gives both
    numbers; TypeError for pairs that are none and activities that have no meaning, ActivityError for a `step` or an
    `rng` that is none; what `f` and `autodiff` raise passes through. The values given are not changed. One thread at a
    time: the plain runs turn Python's warnings off, for the process.

    >>> import numpy as np
    >>> from cyad import Duplicated
    >>> from cyad.testing import check_forward
    >>> def square(y, x):
    ...     y[:] = x**2
    >>> check_forward(square, None, (np.zeros(2), Duplicated), (np.array([3.0, 1.0]), Duplicated))
    """
    call = Call("check_forward", f, pairs, rtol, atol, step, rng, kwargs, width)
    for i, activity in enumerate(call.activities):
        if issubclass(activity, (Active, MixedDuplicated, BatchMixedDuplicated)):
            raise TypeError(f"check_forward: argument {i + 1} is {activity.__name__}, which has no meaning in forward "
                            "mode; use Duplicated")
    want, after = call.plain()
    lanes = [call.directions() for _ in range(call.lanes)]
    slopes = [call.slope(lane) for lane in lanes]
    for mode in (ForwardWithPrimal, Forward):
        args = call.arguments()
        shadows = [call.shadows(lane) for lane in lanes]
        out = autodiff(mode, call.f, *([] if RT is None else [RT]), *call.annotate(args, shadows), **call.kwargs)
        call.mode = mode.name
        got = out[-1] if mode.primal else None
        returned = RT if RT is not None else Const if want is None else Duplicated
        parts = (returned is not Const) + mode.primal
        call.require(len(out) == parts, f"a return of activity {returned.__name__} gives {parts} entries, not "
                                        f"{len(out)}")
        if mode.primal:
            call.same(got, want, "the value")
        for i, (mine, plain) in enumerate(zip(args, after, strict=True)):
            call.same(mine, plain, f"argument {i + 1} after the call")
        if returned is not Const:
            tangents = out[0] if call.batched else (out[0],)
            call.require(isinstance(tangents, tuple) and len(tangents) == call.lanes,
                         f"{call.lanes} lanes should give a tuple of as many derivatives, not {tangents!r}")
            for lane in range(call.lanes):
                label = call.label("the tangent of the return", lane)
                mine = leaves_like(tangents[lane], want, call, label)
                call.close(mine, slopes[lane][0], label)
                if mode.primal and not call.batched:
                    call.same_views(want, after, "the value", got, args)
                    call.same_views(want, after, label, tangents[lane], shadows[lane])
        for lane in range(call.lanes):
            for i in call.varied:
                if isinstance(args[i], np.ndarray) or is_structure(args[i]):
                    call.close(call.leaves_in(shadows[lane][i], i), slopes[lane][1][i],
                               call.label(f"the tangent of argument {i + 1} after the call", lane))


def check_reverse(f, RT, *pairs, rtol=None, atol=None, step=None, rng=None, kwargs=None, width=2):
    """Checks reverse mode of ``f(*values, **kwargs)`` against finite differences; each pair is (value, activity).

    ``check_reverse(f, Active, (x, Duplicated), (2.0, Active), (y, Const))``

    With random adjoints w of the inputs after the call and r of the return it compares G(inputs) and
    G'(inputs)^T (r, w): the value, every argument after the call, and its adjoint, entry by entry, once with r = 1,
    `f` itself being what is differentiated, and once with a random r, as part of a larger function; in the modes with
    and without primal. ``RT`` is Active for a number, Const for what is returned by reference, Duplicated for an array
    or a structure of arrays and numbers, which is always contracted with a random r. Activities of arguments are Const,
    Duplicated, BatchDuplicated, Active, MixedDuplicated and BatchMixedDuplicated; batches get `width` lanes.

    Tolerances, ``step``, ``rng``, ``kwargs``, errors and thread safety are those of `check_forward`.

    >>> import numpy as np
    >>> from cyad import Active, Duplicated
    >>> from cyad.testing import check_reverse
    >>> def scaled(x, a):
    ...     x *= a
    ...     return np.sum(x**2)
    >>> check_reverse(scaled, Active, (np.array([3.0, 1.0]), Duplicated), (2.0, Active))
    """
    call = Call("check_reverse", f, pairs, rtol, atol, step, rng, kwargs, width)
    want, after = call.plain()
    weights = [call.random(leaf) for leaf in leaves_of(want)]
    if RT is Const or RT is None and want is None:
        _check_reverse(call, call.f, Const, want, None)
        return
    if RT is Active or RT is None and np.ndim(want) == 0 and len(weights) == 1:
        if not np.iscomplexobj(want):
            _check_reverse(call, call.f, Active, want, [1.0])
    elif RT is not None and not issubclass(RT, (Duplicated, BatchDuplicated)):
        raise TypeError(f"check_reverse: a return of activity {RT.__name__} has no meaning here; use Active for a "
                        "number, Duplicated for arrays, Const for what is returned by reference")

    def contracted(*args, **keywords):
        return contract(call.f(*args, **keywords), weights)

    contracted.__qualname__ = name_of(f)
    _check_reverse(call, contracted, Active, contract(want, weights), weights)


def check_grads(f, *args, order=2, modes=("forward", "reverse"), widths=(1, 2), rtol=None, atol=None, step=None,
                rng=None, kwargs=None):
    """Checks the derivatives of ``f(*args, **kwargs)`` up to an order, in each mode, and of each mode through each.

    Order 1 is `check_forward` and `check_reverse` with every argument active that can be, for each of `widths` (numbers
    among the arguments are Active, which excludes batches in reverse mode), in lanes. Order n checks, likewise, the map
    G: (inputs) -> (return value, inputs after the call) differentiated once by each mode: a directional derivative, and
    the gradient of a random contraction.

    Raises ValueError for other `modes` than these two, and what `check_forward` does. One thread at a time, too.

    >>> import numpy as np
    >>> from cyad.testing import check_grads
    >>> check_grads(lambda x, a: np.sin(a * x[1:]) * x[:-1], np.array([1.0, 2.0, 3.0]), 0.5)
    """
    unknown = set(modes) - {"forward", "reverse"}
    if unknown or not modes:
        raise ValueError(f"check_grads: modes are 'forward' and 'reverse', not {modes!r}")
    rng = generator("check_grads", rng)
    options = dict(rtol=rtol, atol=atol, step=step, rng=rng)
    f, kwargs = bound(f, kwargs)
    active = [bool(leaves_of(a)) for a in args]
    numbers = any(not isinstance(leaf, np.ndarray) for a in args for leaf in leaves_of(a))
    returns = bool(leaves_of(f(*map(plain_copy, args), **kwargs)))
    for mode, width in itertools.product(modes, widths):
        wide = width > 1
        if mode == "forward":
            kind = BatchDuplicated if wide else Duplicated
            check_forward(f, None, *[(a, kind if on else Const) for a, on in zip(args, active, strict=True)],
                          kwargs=kwargs, width=width, **options)
        elif not (wide and numbers):
            kinds = [reverse_activity(a, wide) if on else Const for a, on in zip(args, active, strict=True)]
            check_reverse(f, Duplicated if returns else Const, *zip(args, kinds, strict=True), kwargs=kwargs,
                          width=width, **options)
    if order > 1:
        for mode in modes:
            derived = (pushed if mode == "forward" else pulled)(f, args, active, rng, kwargs)
            check_grads(derived, *args, order=order - 1, modes=modes, widths=widths, **options)


def pushed(f, args, active, rng, kwargs):
    """The tangents of G along a fixed direction, as a function of the arguments."""
    directions = [direction_of(a, rng) if on else None for a, on in zip(args, active, strict=True)]

    def tangents(*xs):
        xs = [plain_copy(x) for x in xs]
        vs = [None if v is None else cast_like(v, x) for v, x in zip(directions, xs, strict=True)]
        out = autodiff(Forward, f, *[Const(x) if v is None else Duplicated(x, v)
                                     for x, v in zip(xs, vs, strict=True)], **kwargs)
        return [*out, *[v for v in vs if v is not None]]

    tangents.__qualname__ = f"the forward derivative of {name_of(f)}"
    return tangents


def pulled(f, args, active, rng, kwargs):
    """The gradient of a random contraction of G, as a function of the arguments."""
    mine = [plain_copy(a) for a in args]
    out = f(*mine, **kwargs)
    weights = [random_like(leaf, rng) for leaf in leaves_of([out, mine])]

    def contraction(*xs):
        return contract([f(*xs, **kwargs), list(xs)], weights)

    def adjoints(*xs):
        annotated, shadows = [], []
        for x, on in zip(map(plain_copy, xs), active, strict=True):
            if not on:
                annotated.append(Const(x))
            elif not is_structure(x) and not isinstance(x, np.ndarray):
                annotated.append(Active(x))
            else:
                shadows.append(direction_of(x, None))
                ref = Ref(shadows[-1])
                annotated.append(MixedDuplicated(x, ref) if is_structure(x) else Duplicated(x, shadows[-1]))
                if is_structure(x):
                    shadows[-1] = ref
        (entries,) = autodiff(Reverse, contraction, Active, *annotated)
        return [e for e in entries if e is not None] + [s.value if isinstance(s, Ref) else s for s in shadows]

    adjoints.__qualname__ = f"the reverse derivative of {name_of(f)}"
    return adjoints


def _check_reverse(call, f, RT, want, seeds):
    """One function in reverse mode; `seeds` are the adjoints of the leaves of what call.f returns, None for Const."""
    _, after = call.plain()
    lanes = [call.directions() for _ in range(call.lanes)]
    tried = call.transposed(seeds, lanes)
    for mode in (ReverseWithPrimal, Reverse):
        args = call.arguments()
        shadows = [call.shadows(lane) for lane in lanes]
        refs = [[Ref(shadow) for shadow in lane] for lane in shadows]
        out = autodiff(mode, f, RT, *call.annotate(args, shadows, refs), **call.kwargs)
        call.mode = mode.name
        call.require(len(out) == 1 + mode.primal, f"{mode.name} returns {1 + mode.primal} entries, not {len(out)}")
        if mode.primal:
            call.same(out[1], want, "the value")
        for i, (mine, plain) in enumerate(zip(args, after, strict=True)):
            call.same(mine, plain, f"argument {i + 1} after the call")
        call.require(len(out[0]) == len(args), f"{len(args)} arguments have {len(out[0])} derivatives")
        for i, entry in enumerate(out[0]):
            if call.activities[i] is not Active:
                call.require(entry is None, f"argument {i + 1} is {call.activities[i].__name__}: its entry should be "
                                            f"None, not {entry!r}")
            elif call.batched:
                call.require(isinstance(entry, tuple) and len(entry) == call.lanes,
                             f"the derivative of argument {i + 1} should be a tuple of {call.lanes}, not {entry!r}")
        for i, lane in itertools.product(call.varied, range(call.lanes)):
            adjoint = shadows[lane][i]
            if call.activities[i] is Active:
                adjoint = out[0][i][lane] if call.batched else out[0][i]
            elif issubclass(call.activities[i], (MixedDuplicated, BatchMixedDuplicated)):
                adjoint = refs[lane][i].value
            leaves = call.leaves_in(adjoint, i)
            for k, leaf in enumerate(leaves):
                label = f"the adjoint of argument {i + 1}" + (f" (its leaf {k + 1})" if len(leaves) > 1 else "")
                call.compare_adjoint(leaf, *tried[i, k], lane, call.label(label, lane))


# ---- memory ---------------------------------------------------------------------------------------------------------

class Memory:
    """Arrays that overlap as given ones do, with the same or other contents."""

    def __init__(self, arrays):
        self.arrays = arrays
        self.dense = [repeats(a) for a in arrays]   # broadcast axes: each element has a derivative of its own
        bounds = [np.lib.array_utils.byte_bounds(a) for a in arrays]
        self.groups = []
        for n in sorted(range(len(arrays)), key=lambda n: bounds[n]):
            low, high = bounds[n]
            if self.groups and low < self.groups[-1][1] and not self.dense[n]:
                first, last, members = self.groups[-1]
                self.groups[-1] = (first, max(last, high), [*members, n])
            else:
                self.groups.append((low, high, [n]))

    def filled(self, contents, wide=False, shadow=False):
        """Arrays of the contents; `wide`: in double precision at least; `shadow`: writeable, each element once."""
        out = [None] * len(self.arrays)
        for low, high, members in self.groups:
            dtypes = {self.arrays[n].dtype for n in members}
            old = self.arrays[members[0]].dtype
            new = widened(old) if wide and len(dtypes) == 1 else old
            memory = np.zeros((high - low) // old.itemsize * new.itemsize + 32, np.uint8)
            begin = -memory.ctypes.data % 16 + (low % 16 if new == old else 0)
            for n in members:
                a = self.arrays[n]
                dtype = new if len(dtypes) == 1 else a.dtype
                if self.dense[n] and (wide or shadow):
                    out[n] = np.array(contents[n], dtype)
                    continue
                offset = (a.__array_interface__["data"][0] - low) // old.itemsize * new.itemsize
                strides = [s // old.itemsize * new.itemsize for s in a.strides]
                if new == old:
                    offset, strides = a.__array_interface__["data"][0] - low, a.strides
                out[n] = np.ndarray(a.shape, dtype, memory, begin + offset, strides)
                out[n][...] = contents[n]
        if not shadow:
            for a, b in zip(self.arrays, out, strict=True):
                b.flags.writeable = a.flags.writeable
        return out

    def firsts(self):
        """For each array the elements (1.0) that no earlier one has: what is summed over memory counts them once."""
        seen = self.filled([np.ones(a.shape) for a in self.arrays], shadow=True)
        out = []
        for a in seen:
            out.append(np.array(a.real, np.float64))
            a[...] = 0.0
        return out


def repeats(a):
    """Whether two indices name one element."""
    return not a.flags.c_contiguous and not a.flags.writeable and any(
        s == 0 and n > 1 for s, n in zip(a.strides, a.shape, strict=True))


def widened(dtype):
    return np.result_type(dtype, np.float64) if dtype.kind in "fc" and dtype.itemsize < 16 else dtype


# ---- one call -------------------------------------------------------------------------------------------------------

def generator(who, rng):
    """The random numbers of a check: a generator, or one with this seed (None: a fixed one)."""
    if rng is None or isinstance(rng, (int, np.integer)) and not isinstance(rng, bool) and rng >= 0:
        return np.random.default_rng(0 if rng is None else rng)
    if not isinstance(rng, np.random.Generator):
        raise ActivityError(f"{who}: rng is a numpy.random.Generator, or an integer that seeds one, not {rng!r}")
    return rng


class Call:
    """A function with its arguments: copies of them, plain runs, differences, comparisons and their messages.

    Arguments are lists of leaves (floats and arrays of floats; most arguments are one leaf) and what surrounds them.
    """

    def __init__(self, who, f, pairs, rtol, atol, step, rng, kwargs, width):
        self.who, self.mode = who, "plain"
        for i, pair in enumerate(pairs):
            if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], type)
                    and issubclass(pair[1], Annotation)):
                raise TypeError(f"{who}: argument {i + 1} is a pair (value, activity) such as (x, Duplicated), not "
                                f"{pair!r}")
        if step is not None and not step > 0:
            raise ActivityError(f"{who}: step is the distance of the differences, a number above zero, not {step!r}")
        self.f, self.kwargs = bound(f, kwargs)
        self.values = [value for value, _ in pairs]
        self.activities = [activity for _, activity in pairs]
        self.leaves = [flat(value)[0] for value in self.values]
        self.varied = [i for i, activity in enumerate(self.activities) if activity is not Const]
        for i in self.varied:
            if not self.leaves[i]:
                raise TypeError(f"{who}: argument {i + 1} is {self.activities[i].__name__} but holds no float: it has "
                                "no derivative; use Const")
        self.places = [(i, k) for i, leaves in enumerate(self.leaves) for k, leaf in enumerate(leaves)
                       if isinstance(leaf, np.ndarray)]
        self.memory = Memory([self.leaves[i][k] for i, k in self.places])
        self.firsts = dict(zip(self.places, self.memory.firsts(), strict=True))
        self.batched = any(getattr(a, "batched", False) for a in self.activities)
        self.lanes = width if self.batched else 1
        self.rng = generator(who, rng)
        self.rtol, self.atol = rtol, atol
        # Differences are as exact as what the function computes with when it is given doubles.
        out, left = self.run([[np.zeros_like(leaf) for leaf in leaves] for leaves in self.leaves], 0.0)
        parts = [*leaves_of(out), *(leaf for leaves in left for leaf in leaves)]
        self.eps = max([float(np.finfo(np.asarray(p).dtype).eps) for p in parts], default=np.finfo(np.float64).eps)
        self.scale = max([1.0, *map(magnitude, parts)])
        self.step = self.eps ** 0.2 if step is None else step

    def label(self, what, lane):
        return f"{what}, lane {lane}" if self.batched else what

    def random(self, like):
        return random_like(like, self.rng)

    # -- arguments --

    def placed(self, leaves, **how):
        """The leaves in new memory that overlaps as the arguments do."""
        out = [list(own) for own in leaves]
        for (i, k), a in zip(self.places, self.memory.filled([leaves[i][k] for i, k in self.places], **how),
                             strict=True):
            out[i][k] = a
        return out

    def assembled(self, leaves):
        """Arguments of these leaves; what else a structure holds is copied, so that no run sees what another wrote."""
        out = []
        for value, own in zip(self.values, leaves, strict=True):
            if isinstance(value, (np.ndarray, np.random.Generator)) and not own:
                out.append(copy.deepcopy(value))
            else:
                out.append(flat(copy.deepcopy(value) if is_structure(value) else value)[1](own))
        return out

    def arguments(self):
        return self.assembled(self.placed(self.leaves))

    def directions(self):
        """Random tangents of all leaves; where arguments overlap, so do these."""
        return self.placed([[self.random(leaf) for leaf in leaves] for leaves in self.leaves], shadow=True)

    def shadows(self, lane):
        return self.assembled(self.placed(lane, shadow=True))

    def annotate(self, args, shadows, refs=None):
        """The arguments of `autodiff`; `shadows` has one list for each lane."""
        out = []
        for i, (x, activity) in enumerate(zip(args, self.activities, strict=True)):
            if activity is Const or activity is Active:
                out.append(activity(x))
                continue
            mixed = issubclass(activity, (MixedDuplicated, BatchMixedDuplicated))
            lanes = tuple(lane[i] for lane in (refs if mixed else shadows))
            out.append(activity(x, lanes if activity.batched else lanes[0]))
        return out

    def leaves_in(self, value, i):
        return flat(value)[0] if is_structure(self.values[i]) else [value]

    # -- the plain function --

    def plain(self):
        """What the function returns, and the arguments as it leaves them; both in memory of their own."""
        args = self.arguments()
        return self.f(*args, **self.kwargs), args

    def run(self, directions, step):
        """The result and the leaves of the arguments after the call, a step along; in double precision: differences of
        single precision tell little."""
        moved = [[step_along(x, v, step) if i in self.varied else x for x, v in zip(*both, strict=True)]
                 for i, both in enumerate(zip(self.leaves, directions, strict=True))]
        args = self.assembled(self.placed(moved, wide=True))
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = self.f(*args, **self.kwargs)
        return out, [self.leaves_in(a, i) if self.leaves[i] else [] for i, a in enumerate(args)]

    def slope(self, directions):
        """The leaves of the return, and those of each argument after the call, differentiated along a direction."""
        returned, left = None, None
        for k, weight in STENCIL:
            out, args = self.run(directions, k * self.step)
            with np.errstate(all="ignore"):
                out = [leaf * (weight / self.step) for leaf in leaves_of(out)]
                args = [[leaf * (weight / self.step) for leaf in leaves] for leaves in args]
                returned = out if returned is None else [a + b for a, b in zip(returned, out, strict=True)]
                left = args if left is None else [[a + b for a, b in zip(*both, strict=True)]
                                                  for both in zip(left, args, strict=True)]
        return returned, left

    def transposed(self, seeds, lanes):
        """For each varied leaf: the entries and directions tried, and <(seeds, lane), slope> for each and each lane."""
        tried = {}
        for i in self.varied:
            for k, leaf in enumerate(self.leaves[i]):
                probes = list(self.probes_of(leaf))
                values = []
                for _, direction in probes:
                    along = self.placed([[np.zeros_like(x) for x in leaves] for leaves in self.leaves], shadow=True)
                    if isinstance(leaf, np.ndarray):
                        along[i][k][...] = direction
                    else:
                        along[i][k] = direction
                    values.append(self.products(along, seeds, lanes))
                tried[i, k] = probes, np.array(values, np.float64)
        return tried

    def products(self, along, seeds, lanes):
        returned, left = self.slope(along)
        total = 0.0 if seeds is None else sum(inner(w, d) for w, d in zip(seeds, returned, strict=True))
        return [total + sum(inner(w * self.firsts.get((i, k), 1.0), left[i][k]) for i in self.varied
                            if self.activities[i] is not Active for k, w in enumerate(lane[i])) for lane in lanes]

    def probes_of(self, leaf):
        """(entry, direction) for the entries one by one; where they are many, a random direction through all first."""
        units = (1.0, 1j) if np.iscomplexobj(leaf) else (1.0,)
        if not isinstance(leaf, np.ndarray):
            yield from (((), unit) for unit in units)
            return
        chosen = range(leaf.size)
        if leaf.size > ENTRIES:
            yield None, self.random(leaf)
            chosen = sorted(self.rng.choice(leaf.size, ENTRIES, replace=False).tolist())
        for n, unit in itertools.product(chosen, units):
            direction = np.zeros(leaf.shape, leaf.dtype)
            index = tuple(int(j) for j in np.unravel_index(n, leaf.shape))
            direction[index] = unit
            yield index, direction

    # -- comparisons --

    def require(self, condition, message):
        if not condition:
            raise AssertionError(f"{self.who} of {name_of(self.f)}, {self.mode}: {message}")

    def tolerances(self, leaf):
        """Of a derivative in the dtype of this one."""
        eps = max(self.eps, float(np.finfo(np.asarray(leaf).dtype).eps))
        return (eps ** 0.45 if self.rtol is None else self.rtol), (eps ** 0.55 if self.atol is None else self.atol)

    def close(self, got, want, label):
        """Tangents, leaf by leaf."""
        self.require(len(got) == len(want), f"{label} has {len(got)} numbers and arrays, the value {len(want)}")
        for k, (a, b) in enumerate(zip(got, want, strict=True)):
            where = f"{label} (its leaf {k + 1})" if len(want) > 1 else label
            self.require(np.shape(a) == np.shape(b), f"{where} has shape {np.shape(a)}, the value {np.shape(b)}")
            rtol, atol = self.tolerances(a)
            with np.errstate(all="ignore"):
                self.report(np.asarray(a), np.asarray(b), rtol * np.abs(b) + atol * self.scale, where, lambda at: at)

    def compare_adjoint(self, leaf, probes, expected, lane, label):
        """An adjoint, entry by entry, against <(seeds, shadows), slope> along each direction tried."""
        if not probes:
            return
        self.require(np.shape(leaf) == np.shape(probes[0][1]),
                     f"{label} has shape {np.shape(leaf)}, the value {np.shape(probes[0][1])}")
        rtol, atol = self.tolerances(leaf)
        got, want = np.array([inner(direction, leaf) for _, direction in probes]), expected[:, lane]
        size = np.array([np.sqrt(np.size(leaf)) if index is None else 1.0 for index, _ in probes])

        def place(at):
            index, direction = probes[at[0]]
            if index is None:
                return ("along a random direction",)
            return (*index, "imaginary part") if np.sum(np.imag(direction)) else index

        self.report(got, want, rtol * np.abs(want) + atol * self.scale * size, label, place)

    def report(self, got, want, allowed, label, place):
        """AssertionError at the entry that is off by the largest multiple of what is allowed."""
        with np.errstate(all="ignore"):
            error = np.abs(got - want)
            good = (got == want) | (np.isnan(got) & np.isnan(want)) | (error <= allowed)
            if np.all(good):
                return
            worst = np.where(good, -1.0, np.where(np.isfinite(error), error / np.maximum(allowed, 1e-300), np.inf))
        at = np.unravel_index(int(np.argmax(worst)), worst.shape)
        entry = place(tuple(int(n) for n in at))
        where = f", entry {entry[0] if len(entry) == 1 else entry}" if entry else ""
        self.require(False, f"{label}{where}: {got[at]} by cyad, {want[at]} by finite differences of step "
                            f"{self.step:.2g}; {np.sum(~good)} of {good.size} entries differ by more than is allowed, "
                            f"here {np.broadcast_to(allowed, worst.shape)[at]:.2g}")

    def same(self, got, want, label):
        """Values: structure, shape and dtype, and every entry to three quarters of its digits."""
        mine, theirs = dict(items_of(got)), dict(items_of(want))
        self.require(mine.keys() == theirs.keys(), f"{label} has the parts {sorted(mine)}, in a plain run "
                                                   f"{sorted(theirs)}")
        for path, plain in theirs.items():
            value, name = mine[path], f"{label}{path}"
            if not isinstance(plain, (np.ndarray, np.number, np.bool_, float, complex)):
                kind = type(plain).__name__
                self.require(type(value) is type(plain), f"{name} is a {type(value).__name__}, in a plain run a {kind}")
                if isinstance(plain, (int, str, bytes)):
                    self.require(value == plain, f"{name} is {value!r}, in a plain run {plain!r}")
                continue
            a, b = np.asarray(value), np.asarray(plain)
            self.require(isinstance(value, np.ndarray) == isinstance(plain, np.ndarray) and a.shape == b.shape
                         and a.dtype == b.dtype,
                         f"{name} is a {type(value).__name__} of shape {a.shape} and dtype {a.dtype}, in a plain run a "
                         f"{type(plain).__name__} of shape {b.shape} and dtype {b.dtype}")
            if b.dtype.kind in "fc":
                with np.errstate(all="ignore"):
                    slack = float(np.finfo(b.dtype).eps) ** 0.75 * (np.abs(b) + magnitude(b))
                    right = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= slack)
            else:
                right = a == b
            if not np.all(right):
                at = tuple(int(n) for n in np.argwhere(~np.asarray(right))[0])
                self.require(False, f"{name}{f', entry {at}' if at else ''} is {a[at]}, in a plain run {b[at]}")

    def same_views(self, want, after, label, got, args):
        """What is a view of an argument in a plain run is one here (a tangent, of its shadow), and nothing else is."""
        mine = dict(items_of(got))
        for path, leaf in items_of(want):
            if not isinstance(leaf, np.ndarray) or leaf.dtype.kind not in "fc":
                continue
            for i in self.varied:
                if isinstance(after[i], np.ndarray):
                    plain, own = np.may_share_memory(leaf, after[i]), np.may_share_memory(mine[path], args[i])
                    self.require(plain == own, f"{label}{path} {'shares' if own else 'does not share'} memory with "
                                               f"argument {i + 1} or its shadow; in a plain run the value "
                                               f"{'does' if plain else 'does not'} with the argument")


# ---- values ---------------------------------------------------------------------------------------------------------

def name_of(f):
    f = f.func if isinstance(f, functools.partial) else f
    return getattr(f, "__qualname__", None) or type(f).__qualname__


def bound(f, kwargs):
    """The function and its keyword arguments, put into the function where `autodiff` has parameters of these names."""
    if kwargs and not kwargs.keys().isdisjoint(("mode", "f")):
        return functools.partial(f, **kwargs), {}
    return f, {} if kwargs is None else kwargs


def flat(value):
    """``(leaves, rebuild)`` of an argument."""
    if is_structure(value):
        return flatten(value)
    return ([value], lambda leaves: leaves[0]) if is_leaf(value) else ([], lambda leaves: value)


def items_of(value, path=""):
    """(path, part) for every part of a result that has no parts itself."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from items_of(part, f"{path}[{key!r}]")
    elif isinstance(value, (tuple, list)):
        for i, part in enumerate(value):
            yield from items_of(part, f"{path}[{i}]")
    elif is_structure(value) and not callable(value):
        for key, part in vars(value).items():
            yield from items_of(part, f"{path}.{key}")
    else:
        yield path, value


def leaves_of(value):
    """The floats and float arrays of a result, in order."""
    return [part for _, part in items_of(value) if is_leaf(part)]


def leaves_like(tangent, value, call, label):
    """The parts of a tangent that belong to the floats of a value."""
    parts, out = dict(items_of(tangent)), []
    for path, part in items_of(value):
        if is_leaf(part):
            call.require(parts.get(path) is not None, f"{label} has nothing for the value{path}")
            out.append(parts[path])
    return out


def reverse_activity(value, batched):
    if is_structure(value):
        return BatchMixedDuplicated if batched else MixedDuplicated
    if isinstance(value, np.ndarray):
        return BatchDuplicated if batched else Duplicated
    return Active


def random_like(leaf, rng):
    """Entries of size one, away from zero: a zero would hide what it is multiplied with."""
    def draw():
        return rng.uniform(0.5, 1.5, np.shape(leaf)) * rng.choice([-1.0, 1.0], np.shape(leaf))

    out = draw() + 1j * draw() if np.iscomplexobj(leaf) else draw()
    if isinstance(leaf, np.ndarray):
        return np.asarray(out, leaf.dtype)
    return type(leaf)(out) if isinstance(leaf, np.generic) else complex(out) if np.iscomplexobj(leaf) else float(out)


def direction_of(value, rng):
    """A random tangent, or without rng a zero one, in the structure of the value."""
    leaves, rebuild = flat(value)
    return rebuild([random_like(leaf, rng) if rng is not None else np.zeros_like(leaf) if isinstance(leaf, np.ndarray)
                    else leaf * 0 for leaf in leaves])


def plain_copy(value):
    """A copy of an argument, tracked or not."""
    leaves, rebuild = flat(value)
    return rebuild([leaf.copy() if isinstance(leaf, np.ndarray) else leaf for leaf in leaves])


def cast_like(tangent, value):
    """A tangent in the dtypes of a value: finite differences call with wider ones."""
    leaves, rebuild = flat(tangent)
    return rebuild([v.astype(x.dtype) if isinstance(v, np.ndarray) else v
                    for v, x in zip(leaves, flat(value)[0], strict=True)])


def step_along(x, v, step):
    wide = widened(np.asarray(x).dtype)
    out = np.asarray(x, wide) + step * np.asarray(v, wide)
    return out if isinstance(x, np.ndarray) else out[()]


def magnitude(leaf):
    """The largest finite absolute value."""
    return float(np.max(np.where(np.isfinite(leaf), np.abs(leaf), 0.0), initial=0.0))


def inner(w, d):
    """<w, d> over the reals."""
    return float(np.sum(np.real(w) * np.real(d)) + np.sum(np.imag(w) * np.imag(d)))


def contract(value, weights):
    """A real number with every float of a value in it, itself differentiable."""
    total = 0.0
    for leaf, w in zip(leaves_of(value), weights, strict=True):
        if np.iscomplexobj(w):
            total = total + np.sum(np.real(leaf) * np.real(w)) + np.sum(np.imag(leaf) * np.imag(w))
        else:
            total = total + np.sum(leaf * w)
    return total
