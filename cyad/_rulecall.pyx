"""A call of a function that has rules: its arguments sorted by activity, what rules see of them, the memory they
may write.

A call belongs to the innermost context that tracks one of its arguments. Its rule runs one level further out:
inside annotations it is given what that level sees (plain numbers and arrays where there is no outer
differentiation). So a rule written with NumPy is differentiated by the outer calls like any other code, and a
primitive inside a rule finds its own rules again. The halves for the two modes are in `_ruled.pyx`; rules by
partial derivatives, which need no halves, at the end of this file.

Memory. A rule writes through plain arrays. In reverse mode, what the tape already refers to is copied before the
rule runs, and becomes an undo record where the rule did write. A result that lies in an argument's memory is a view
of it, shadow included.

Rejected: hashing memory to see whether a rule wrote it (a copy is as dear, and can be used); letting rules see
tracked values of their own level (compiled code could not take them).

Thread safety: as the contexts; a Call lives in one thread.
"""
cimport cython
from cpython.dict cimport PyDict_GetItem
from cpython.float cimport PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.ref cimport PyObject, PyTypeObject
from cpython.unicode cimport PyUnicode_CheckExact
from libc.string cimport memcmp
from numpy cimport (
    NPY_ARRAY_WRITEABLE, PyArray_CHKFLAGS, PyArray_CLEARFLAGS, PyArray_DATA, PyArray_ISCONTIGUOUS, PyArray_NBYTES,
    PyArray_TYPE, import_array, ndarray,
)

from cyad._adjoint cimport Adjoint, Tape
from cyad._context cimport (
    Context, Py_EnterRecursiveCall, Py_LeaveRecursiveCall, TrackedArray, check_conflict, context_of, is_array, is_float64,
    is_scalar, is_tracked, number, own_copy, plain_value, run_plain, run_primal, wrap_inactive, wrap_view,
)
from cyad._dual cimport Dual
from cyad._nodes cimport NONE, Undo
from cyad._redirect cimport enter, swap_current
from cyad._shadow cimport Buffer, extent_of

import types

import numpy as np

from cyad._elementwise import seed_product
from cyad._structures import flatten, is_leaf, is_structure
from cyad.activity import (
    Active,
    BatchDuplicated,
    BatchMixedDuplicated,
    Const,
    Duplicated,
    Forward,
    MixedDuplicated,
    Ref,
    Reverse,
)
from cyad.errors import ActivityError, MissingRuleError
from cyad.rules.custom import EASY, arranged, described
from cyad.rules.partials import Constant, Partials, checked_rows
from cyad.rules.state import Kept

import_array()

THROUGH = object()    # no rule serves the call: the function is differentiated through
cdef object FORWARD_STRONG = Forward.with_strong_zero(), REVERSE_STRONG = Reverse.with_strong_zero()
cdef dict UNBATCHED = {BatchDuplicated: Duplicated, BatchMixedDuplicated: MixedDuplicated}
cdef dict BATCHED = {Duplicated: BatchDuplicated, MixedDuplicated: BatchMixedDuplicated}
cdef tuple FLEXIBLE = (Duplicated, Const), FLEXIBLE_BATCH = (BatchDuplicated, Const)
cdef tuple NONE_OVERWRITTEN = tuple([(False,) * n for n in range(16)])
cdef frozenset FLOATS = frozenset([float, np.float64, np.float32]), NUMBERS = FLOATS | {int}
cdef tuple IMMUTABLE = (np.ndarray, np.generic, np.dtype, complex, bytes, type, types.FunctionType,
                        types.BuiltinFunctionType, np.ufunc, range, slice)


@cython.final
@cython.no_gc
cdef class Config:
    """What a rule is told about the call: width, mode, needs_primal, needs_shadow, overwritten, strong_zero."""

    def __repr__(self):
        return (f"Config(width={self.width}, mode={self.mode.name}, needs_primal={self.needs_primal}, "
                f"needs_shadow={self.needs_shadow}, overwritten={self.overwritten}, strong_zero={self.strong_zero})")


cdef Config new_config(Context ctx, int width, bint primal, bint shadow, tuple overwritten):
    cdef Config config = Config.__new__(Config)
    config.width = width
    config.strong_zero = ctx.strong
    if ctx.backward:
        config.mode = REVERSE_STRONG if ctx.strong else Reverse
    else:
        config.mode = FORWARD_STRONG if ctx.strong else Forward
    config.needs_primal = primal
    config.needs_shadow = shadow
    config.overwritten = overwritten
    return config


cdef extern from "numpy/arrayobject.h":
    ctypedef int NPY_ORDER
    NPY_ORDER NPY_CORDER
    ndarray PyArray_NewCopy(ndarray arr, NPY_ORDER order)

    PyObject* PyArray_BASE(ndarray arr)

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject* value)
    object PyObject_Call(object function, object args, PyObject* kwargs)
    object PyList_AsTuple(object values)

cdef extern from *:
    """
    #define cyad_blank(type) (((PyTypeObject *)(type))->tp_alloc((PyTypeObject *)(type), 0))
    """
    object blank "cyad_blank"(object type)


cdef object annotation(object kind, object val, object dval):
    """An annotation without the checks that a user's goes through."""
    out = blank(kind)
    out.val = val
    if dval is not None:
        out.dval = dval
    return out


cdef object by_lane(object kind, list lanes):
    """Shadows as an annotation of that kind holds them."""
    if kind is Duplicated:
        return lanes[0]
    if kind is MixedDuplicated or kind is BatchMixedDuplicated:
        lanes = [Ref(lane) for lane in lanes]
    return tuple(lanes) if kind.batched else lanes[0]


cdef object zero_like(object value):
    """The shadow of a value that has none: numbers and plain arrays inside a structure."""
    return np.zeros_like(value) if isinstance(value, np.ndarray) else 0.0


cdef object batched(object activity):
    return BATCHED.get(activity, activity)


cdef object unbatched(object activity):
    return UNBATCHED.get(activity, activity)


cdef object kind_of(object value):
    """A value as an error message names it."""
    plain = plain_value(value)
    if isinstance(plain, np.ndarray):
        return f"an array of shape {plain.shape}"
    return "None" if value is None else f"a {type(plain).__name__}"


# ---- arguments and results ------------------------------------------------------------------------------------------

@cython.final
@cython.freelist(64)
@cython.no_gc
cdef class Part:
    """An argument, a result, or a leaf of one that is a structure, as the context that differentiates the call has
    it."""

    cdef object val(self, bint locked):
        """What the rule sees as the value; locked means that it may not write memory."""
        cdef Part leaf
        cdef list leaves
        cdef ndarray plain
        if self.kind == ARRAY and locked and not is_array(self.value):
            plain = self.place.primal() if self.place.buf.owner is not None else (<ndarray>self.value).view()
            PyArray_CLEARFLAGS(plain, NPY_ARRAY_WRITEABLE)
            return plain
        if self.kind != STRUCTURE:
            return self.value
        leaves = []
        for leaf in self.leaves:
            leaves.append(leaf.val(locked))
        return self.rebuilt(leaves)

    cdef object rebuilt(self, list leaves):
        out = self.rebuild(leaves)
        return out if self.method is None else types.MethodType(self.method, out)


cdef Part leaf_of(Context ctx, object value):
    cdef Part leaf = Part.__new__(Part)
    cdef TrackedArray array
    cdef Buffer buf
    leaf.slot = NONE
    leaf.activity = Const
    if is_scalar(value):
        if context_of(value) is not ctx:
            leaf.value = value
            return leaf
        leaf.kind = NUMBER
        leaf.tracked = value
        leaf.value = number(value)
        if type(value) is Adjoint:
            leaf.slot = (<Adjoint>value).slot
            leaf.active = leaf.slot != NONE
        else:
            leaf.active = (<Dual>value).width > 0
    elif is_array(value) and (<TrackedArray>value).ctx is ctx:
        array = <TrackedArray>value
        buf = array.place.buf
        leaf.kind = NUMBER if array.boxed else ARRAY
        leaf.tracked = value
        leaf.value = array.prim
        leaf.place = array.place
        leaf.active = buf.active
        leaf.flexible = not (buf.active or array.boxed or buf.constant or buf.exposed or buf.conflict) and bool(
            PyArray_CHKFLAGS(array.arr, NPY_ARRAY_WRITEABLE))
    else:
        leaf.value = value
    return leaf


cdef bint is_simple(object value) noexcept:
    """Whether a value is known at a glance to be neither tracked nor a structure."""
    return PyFloat_CheckExact(value) or PyLong_CheckExact(value) or value is None or value is True or value is False \
        or PyUnicode_CheckExact(value) or is_float64(value)


cdef object opened(object value):
    """``(leaves, rebuild)`` of a structure that holds tracked values, None for anything else."""
    if is_simple(value) or not is_structure(value):
        return None
    leaves, rebuild = flatten(value)
    for leaf in leaves:
        if is_tracked(leaf):
            return leaves, rebuild
    return None


cdef Part part_of(Context ctx, object value, object structure, bint reads_only):
    """An argument, sorted: what has derivatives in it, and which activity that makes."""
    cdef Part part, leaf
    cdef bint numbers = False, single = ctx.width == 1
    if structure is None:
        part = leaf_of(ctx, value)
        part.flexible = part.flexible and not reads_only
        if part.active:
            if part.kind == NUMBER and ctx.backward:
                part.activity = Active
            else:
                part.activity = Duplicated if single else BatchDuplicated
        elif part.flexible:
            part.activity = FLEXIBLE if single else FLEXIBLE_BATCH
        return part
    part = Part.__new__(Part)
    part.kind = STRUCTURE
    part.activity = Const
    part.leaves = [leaf_of(ctx, v) for v in structure[0]]
    part.rebuild = structure[1]
    for leaf in part.leaves:
        leaf.flexible = leaf.flexible and not reads_only
        part.active = part.active or leaf.active
        numbers = numbers or (leaf.active and leaf.kind == NUMBER)
        part.flexible = part.flexible or leaf.flexible
    if numbers and ctx.backward:
        part.activity = MixedDuplicated if single else BatchMixedDuplicated
    elif part.active:
        part.activity = Duplicated if single else BatchDuplicated
    elif part.flexible:
        part.activity = FLEXIBLE if single else FLEXIBLE_BATCH
    return part


cdef bint may_change(Part part) except -1:
    """Whether `reverse` may find an argument changed: objects that can change, and that cyad does not put back."""
    if part.kind != PLAIN or is_simple(part.value) or isinstance(part.value, IMMUTABLE):
        return False
    return not (type(part.value) is tuple and all([is_simple(v) for v in part.value]))


# ---- memory that rules write ----------------------------------------------------------------------------------------

cdef bint writable(Part leaf) noexcept:
    return PyArray_CHKFLAGS((<TrackedArray>leaf.tracked).arr, NPY_ARRAY_WRITEABLE)


cdef object copy_of(object array):
    """A copy at the level of the array: inside a differentiated call, `copy` of a plain array makes a tracked one."""
    return array.copy() if is_array(array) else own_copy(<ndarray>array)


cdef list saved_memory(Tape tape, Call call):
    """Copies of the writable arguments that the tape refers to already, or that may only be read: [(leaf, copy),
    ...]."""
    cdef list out = None
    cdef Part leaf
    cdef Buffer buf
    if call.reads_only:
        return None
    for leaf in call.arrays:
        if not writable(leaf):
            continue
        buf = leaf.place.buf
        buf.written = True   # for all that we know
        if buf.conflict or (buf.referred and leaf.place.last > buf.referred_from
                            and buf.referred_to > leaf.place.first):
            if out is None:
                out = []
            out.append((leaf, copy_of(leaf.value)))
    return out


cdef bint same_bytes(ndarray a, ndarray b) except -1:
    """Whether a copy still is what it was taken of."""
    if not (PyArray_ISCONTIGUOUS(a) and PyArray_ISCONTIGUOUS(b)):
        a, b = PyArray_NewCopy(a, NPY_CORDER), PyArray_NewCopy(b, NPY_CORDER)
    return memcmp(PyArray_DATA(a), PyArray_DATA(b), PyArray_NBYTES(a)) == 0


cdef int log_writes(Tape tape, list saved) except -1:
    """An undo record for all that a rule did write."""
    cdef Part leaf
    cdef Undo node
    if saved is None:
        return 0
    for leaf, copy in saved:
        if same_bytes(<ndarray>plain_value(copy), (<TrackedArray>leaf.tracked).arr):
            continue
        check_conflict(leaf.place.buf)
        node = Undo.__new__(Undo)
        node.region = leaf.place
        node.saved = copy
        if is_array(leaf.value):
            node.prim = leaf.value
        tape.undo.append(tape.count)
        tape.add_node(node)
    return 0


cdef object view_in(Part home, object out):
    """A result that lies in an argument's memory, as a view of it."""
    return home.tracked if out is home.value else wrap_view(<TrackedArray>home.tracked, out)


# ---- the call -------------------------------------------------------------------------------------------------------

@cython.final
@cython.freelist(64)
@cython.no_gc
cdef class Call:
    """A call of a function that has rules, while it is served; kept by the node that stands for it."""

    cdef int sort(self, list values, list structures) except -1:
        """Sorts the arguments; `structures` is None, or has an entry for each argument."""
        cdef Part part, leaf
        cdef Py_ssize_t i
        self.parts = []
        self.arrays = []
        if self.own is not None:
            self.collect(self.own)
        for i in range(len(values)):
            part = part_of(self.ctx, values[i], structures[i] if structures is not None else None, self.reads_only)
            self.parts.append(part)
            self.collect(part)
        return 0

    cdef int collect(self, Part part) except -1:
        cdef Part leaf
        self.active = self.active or part.active
        if part.kind == ARRAY:
            self.arrays.append(part)
        elif part.kind == STRUCTURE:
            for leaf in part.leaves:
                if leaf.kind == ARRAY:
                    self.arrays.append(leaf)
        return 0

    cdef int forget(self) except -1:
        """Drops the tracked values and the context: the tape will hold the call, and must not be held by it."""
        cdef Part part, leaf
        self.ctx = None
        for part in self.parts if self.own is None else [self.own, *self.parts]:
            part.tracked = None
            if part.kind == STRUCTURE:
                for leaf in part.leaves:
                    leaf.tracked = None
        return 0

    cdef object note(self, object error, object rule):
        """Says on an exception where it comes from."""
        within = "a function" if self.ctx.title is None else described(self.ctx.title)
        text = f"in the {rule.kind} rule {rule.name} of {self.rules.name}, while {within} was differentiated"
        if isinstance(error, ValueError) and "read-only" in str(error):
            text += ("; a rule cannot write the result nor the arguments of the function: work on a copy"
                     if rule.kind == EASY else
                     "; a rule cannot write shadows in augmented_primal (they have no values yet), nor values in "
                     "reverse (memory must stay as the function left it): work on a copy")
        error.add_note(text)

    cdef int wrong(self, object rule, str what) except -1:
        raise ActivityError(f"the {rule.kind} rule {rule.name} of {self.rules.name} {what}")

    cdef object pick(self, object kind, object own, object rets, object activities):
        """The rules that fit, best first: [(rule, return activity, activities), ...]."""
        cdef PyObject* found = PyDict_GetItem(self.rules.cache, (kind, own, rets, activities, self.names))
        return self.rules.pick(kind, own, rets, activities, self.names) if found is NULL else <object>found

    cdef tuple activities(self, bint unbatched):
        cdef Part part
        cdef list out = []
        for part in self.parts:
            a = part.activity
            if unbatched:
                a = FLEXIBLE if a is FLEXIBLE_BATCH else UNBATCHED.get(a, a)
            out.append(a)
        return PyList_AsTuple(out)

    cdef object own_activity(self, bint unbatched):
        if self.own is None:
            return Const
        a = self.own.activity
        if type(a) is tuple:
            a = a[0]
        return UNBATCHED.get(a, a) if unbatched else a

    cdef tuple overwritten(self):
        cdef Part part
        cdef Py_ssize_t n = len(self.parts) + 1
        cdef bint any_may = False
        for part in self.parts:
            any_may = any_may or (part.kind == PLAIN and may_change(part))
        if not any_may and n < 16:
            return NONE_OVERWRITTEN[n]
        return (False, *[may_change(<Part>p) for p in self.parts])

    cdef object run(self, object rule, list arguments):
        """Calls a rule one level out."""
        cdef PyObject* old
        cdef Py_ssize_t n = len(arguments) - len(self.names)
        old = enter(<PyObject*>self.ctx.outer if self.ctx.outer is not None else NULL)
        try:
            if not self.names:
                return PyObject_Call(rule.function, PyList_AsTuple(arguments), NULL)
            return rule.function(*arguments[:n], **dict(zip(self.names, arguments[n:])))
        except Exception as error:
            self.note(error, rule)
            raise
        finally:
            swap_current(old)

    cdef object run_function(self, list values):
        """The function itself, one level out."""
        cdef Py_ssize_t n = len(values) - len(self.names)
        function = self.function if self.own is None else self.own.val(False)
        return run_primal(self.ctx, function, tuple(values[:n]), dict(zip(self.names, values[n:])))

    cdef int untouched(self, object rule, object a, object val, object dval, Py_ssize_t i) except -1:
        """Whether a rule wrote into shadow and value of its i-th argument, instead of putting others in their place."""
        if a.val is val and (dval is None or a.dval is dval):
            return 0
        what = "val" if a.val is not val else "dval"
        whose = f"argument {i}" if i else "the function"
        self.wrong(rule, f"assigned {what} of {whose}, which is lost; write into the array: x.{what}[...] = ...")
        return 0

    cdef int check_level(self, object rule, object value) except -1:
        cdef Context own = context_of(value)
        if own is not None and (own is self.ctx or own.level > self.ctx.level):
            self.wrong(rule, "returned a value of the call that is being differentiated: it captured an active value, "
                             "whose derivative the rule cannot know. Pass that value as an argument")
        return 0

    cdef object plainly(self):
        """Nothing is active: the function itself, one level out, with what it writes undone in the sweep."""
        cdef list saved = saved_memory(<Tape>self.ctx, self) if self.ctx.backward else None
        out = self.run_function([(<Part>p).val(False) for p in self.parts])
        if self.ctx.backward:
            log_writes(<Tape>self.ctx, saved)
        return self.inactive(out)

    cdef object inactive(self, object out):
        """A result that carries no derivative; views stay views."""
        if is_structure(out):
            leaves, rebuild = flatten(out)
            return rebuild([self.inactive(v) for v in leaves])
        if not is_leaf(out):
            return out
        home = self.home_of(out)
        return wrap_inactive(self.ctx, out) if home is None else view_in(home, out)

    cdef object kept(self):
        """What a rule may change in arguments that cyad does not track, to be put back; None where that is nothing."""
        cdef list values = [], tracked = []
        cdef Part part, leaf
        if self.own is None:
            values.append(getattr(self.function, "__wrapped__", None))   # a bound method, or an object with state
        for part in self.parts if self.own is None else [self.own, *self.parts]:
            if part.kind == STRUCTURE:
                # Its lists and objects are put together anew for each call, but for those without numbers.
                for leaf in part.leaves:
                    if leaf.kind == PLAIN:
                        values.append(leaf.value)
                    else:
                        tracked.append(leaf.tracked)
                values.extend([node.value for node in part.rebuild.nodes])
            elif part.kind == PLAIN and not is_simple(part.value):
                values.append(part.value)
        return run_plain(Kept, (values, tracked, self.rules.name)) if values else None

    cdef Part home_of(self, object value):
        """The argument in whose memory an array lies."""
        cdef Part leaf
        cdef ndarray plain
        cdef Py_ssize_t low, high, first
        if not self.arrays or not isinstance(value, np.ndarray):
            return None
        plain = plain_value(value)
        low, high = extent_of(plain)
        if low == high:
            return None
        for leaf in self.arrays:
            first = <Py_ssize_t>leaf.place.buf.data
            if first <= low and high <= first + leaf.place.buf.nbytes and PyArray_TYPE(plain) == leaf.place.typenum:
                return leaf
        return None

    # -- partial derivatives -----------------------------------------------------------------------------------------

    cdef object run_unwritten(self, object rule, list values):
        """The function itself, which must neither write the arrays among its arguments nor return views of them."""
        cdef list before = []
        cdef Py_ssize_t i
        cdef bint arrays = False
        for i in range(len(values)):
            v = values[i]
            if not isinstance(v, np.ndarray):
                continue
            arrays = True
            if plain_value(v).dtype.kind in "fc" and plain_value(v).flags.writeable:
                before.append((i, v, copy_of(v)))
        out = self.run_function(values)
        if not arrays:
            return out
        results = out if isinstance(out, (tuple, list)) else (out,)
        for i, v, copy in before:
            if not same_bytes(<ndarray>plain_value(copy), <ndarray>plain_value(v)):
                raise ActivityError(
                    f"{self.rules.name} wrote its argument {i + 1}, which its easy_rule {rule.name} says nothing of: a "
                    "function with an easy_rule only reads its arguments. Write forward and reverse rules, or have it "
                    "work on a copy")
        for i in range(len(values)):
            for o in results:
                if isinstance(o, np.ndarray) and isinstance(values[i], np.ndarray) and overlap(o, values[i]):
                    raise ActivityError(
                        f"{self.rules.name} returned its argument {i + 1}, or a view of it: with an easy_rule "
                        f"({rule.name}) its results are arrays of their own. Return a copy, y.copy(), or write forward "
                        "and reverse rules, whose results may be views")
        return out

    cdef object easy(self):
        """An easy_rule: the function itself, linearised by its partial derivatives."""
        cdef Part part
        cdef list values, shown, columns = [], operands = [], pushes = [], pulls = []
        cdef Py_ssize_t i, k
        cdef bint zero
        cdef PyObject* old
        if not self.rules.rules[EASY] or (self.own is not None and self.own.active):
            return THROUGH
        found, indices, defaults, names = self.pick_easy()
        for rule, _, _ in found:
            for part in self.parts:
                if part.kind == STRUCTURE and part.active:
                    raise MissingRuleError(f"the easy_rule {rule.name} of {self.rules.name} takes numbers and arrays, "
                                           "not structures of them; write forward and reverse rules")
            values = [(<Part>p).val(False) for p in self.parts]
            out = self.run_unwritten(rule, values)
            if indices is not None:
                values = [defaults[k] if indices[k] < 0 else values[indices[k]] for k in range(len(indices))]
            given = len(values)
            while indices is not None and given > 0 and indices[given - 1] < 0:
                given -= 1
            shown = [read_only(v) for v in values]
            k = len(shown) - len(names)
            old = enter(<PyObject*>self.ctx.outer if self.ctx.outer is not None else NULL)
            try:
                # The plain run knows no derivatives, so it cannot warn of them.
                with np.errstate(all="ignore"):
                    rows = (rule.function(read_only(out), *shown[:k], **dict(zip(names, shown[k:]))) if names else
                            rule.function(read_only(out), *shown))
                    if rows is not NotImplemented and not are_numbers(rows, out, values):
                        rows = checked_rows(rows, out, values, given)
            except Exception as error:
                self.note(error, rule)
                raise
            finally:
                swap_current(old)
            if rows is NotImplemented:
                continue
            for k in range(len(values)):
                i = k if indices is None else indices[k]
                if i < 0:
                    continue
                part = self.parts[i]
                if not part.active:
                    continue
                zero = True
                for row in rows:
                    zero = zero and row[k] is Constant
                    self.check_level(rule, row[k])
                if zero:
                    continue
                operands.append(part.tracked)
                columns.append((k, values[k]))
            if not operands:
                return self.inactive(out)
            if type(out) in FLOATS:
                combined = self.ctx.combine(out, operands, [rows[0][column[0]] for column in columns])
                if combined is not None:
                    return combined
            for k, value in columns:
                maps = Partials([own_memory(row, k) if self.ctx.backward else row[k] for row in rows], out, value,
                                seed_product if self.ctx.strong else None)
                pushes.append(maps.push)
                pulls.append(maps.pull)
            return self.ctx.link(out, operands, pushes, pulls, ([], False))
        return THROUGH

    cdef tuple pick_easy(self):
        """The rules that fit, and what they are called with: (rules, index of each argument or -1 for a default,
        defaults, names of keywords). Arguments stand as in the signature of the function, with its defaults, where
        a rule takes them so; as in the call where not (None for the indices)."""
        cdef Py_ssize_t n = len(self.parts)
        key = (EASY, n, self.names)
        placed = self.rules.cache.get(key)
        if placed is None:
            placed = None if self.built_in else arranged(self.function, n - len(self.names), self.names)
            placed = self.rules.cache[key] = () if placed is None or placed[0] == list(range(n)) else placed
        if placed:
            found = self.rules.pick(EASY, None, (None,), (Const,) * len(placed[0]), placed[2])
            if found:
                return found, *placed
        return self.pick(EASY, None, (None,), (Const,) * n), None, None, self.names


cdef bint are_numbers(object rows, object out, list values) except -1:
    """Whether everything is a number, so that there is nothing more to check; what is not certain here is not."""
    cdef object row
    cdef Py_ssize_t k
    if type(out) not in NUMBERS or type(rows) is not tuple or len(rows) != 1 or type(rows[0]) is not tuple:
        return False
    row = rows[0]
    if len(row) != len(values):
        return False
    for k in range(len(values)):
        if type(values[k]) not in NUMBERS or not (row[k] is Constant or type(row[k]) in NUMBERS):
            return False
    return True


cdef object own_memory(object row, Py_ssize_t i):
    """A partial derivative that later writes do not change: what nobody but the row refers to is ours."""
    partial = row[i]
    if not isinstance(partial, np.ndarray):
        return partial
    # Two references: that of the row and that of `partial`.
    if type(partial) is ndarray and Py_REFCNT(<PyObject*>partial) == 2 and PyArray_BASE(<ndarray>partial) is NULL and \
            (type(row) is tuple or type(row) is list):
        return partial
    return copy_of(partial)


cdef object read_only(object value):
    """A value as rules by partial derivatives see it: arrays, also those of a tuple of results, cannot be written."""
    cdef ndarray plain
    if type(value) is ndarray:
        plain = value.view()
        PyArray_CLEARFLAGS(plain, NPY_ARRAY_WRITEABLE)
        return plain
    if isinstance(value, (tuple, list)):
        Py_EnterRecursiveCall(" in a list that is nested too deeply")
        try:
            parts = [read_only(v) for v in value]
        finally:
            Py_LeaveRecursiveCall()
        return type(value)(parts) if type(value) in (tuple, list) else value._make(parts) if hasattr(value, "_make") \
            else value
    return value


cdef bint overlap(object array, object other) except -1:
    cdef Py_ssize_t low, high, first, last
    low, high = extent_of(<ndarray>plain_value(array))
    first, last = extent_of(<ndarray>plain_value(other))
    return low < last and first < high
