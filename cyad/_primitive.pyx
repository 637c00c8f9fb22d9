"""Calls of functions that have rules of their own (`rules/custom.py`): `cyad.primitive`, and NumPy functions that
users override.

A call belongs to the innermost context that tracks one of its arguments. Its rule runs one level further out: it is
given what that level sees (plain numbers and arrays where there is no outer differentiation), inside annotations.
So a rule written with NumPy is differentiated by the outer calls like any other code, and a primitive inside a rule
finds its own rule again.

Forward: the shadows in the annotations are the tangents in memory. Reverse: `augmented_primal` runs at once, and
one node (`Ruled`) stands for the call; its pullback hands the shadows of arguments and result to `reverse`. Memory:
what the tape already refers to is saved before a rule may write it, and becomes an undo record if it did; what the
rule was given and gave is referred to from then on, so the sweep finds it as the rule left it. In reverse it is
handed out read-only. A result that lies in an argument's memory is a view of it, shadow included.

Shadows do not exist yet when `augmented_primal` runs; it is shown arrays that read as NaN and refuse to be written.

Rejected: hashing memory to see whether a rule wrote it (a copy is as dear and can be used); letting rules see
tracked values of their own level (compiled code could not take them); calling rules at the Python level of the
wrapper (3 times the overhead).

Thread safety: as the contexts; primitives hold no state but their rules.
"""
from cpython.float cimport PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.ref cimport PyObject, Py_INCREF, PyTypeObject
from cpython.unicode cimport PyUnicode_CheckExact
from libc.math cimport NAN
from libc.stdint cimport uint32_t
from libc.string cimport memcmp
from numpy cimport (
    NPY_ARRAY_WRITEABLE, NPY_CDOUBLE, NPY_DOUBLE, NPY_FLOAT, PyArray_CHKFLAGS, PyArray_CLEARFLAGS, PyArray_DATA,
    PyArray_DIMS, PyArray_ISONESEGMENT, PyArray_NBYTES, PyArray_NDIM, PyArray_TYPE, import_array, ndarray, npy_intp,
)

from cyad._adjoint cimport Adjoint, Tape
from cyad._dual cimport Dual, ForwardContext
from cyad._nodes cimport NONE, Node, Recording, Undo, adjoint_of, lend_lanes
from cyad._redirect cimport current, swap_current
from cyad._shadow cimport Buffer, View, extent_of
from cyad._tracked cimport (
    SINGLE, Context, TrackedArray, add_to_lane, check_alive, check_conflict, check_storable, context_of, ensure_lanes, higher,
    is_array, is_float64, is_scalar, is_tracked, lane_of, number, object_operand, own_copy, plain_value, primal_at,
    run_primal, wrap_inactive, wrap_view,
)

import types

import numpy as np

from cyad._dispatch import register_custom
from cyad._structures import flatten, is_leaf, is_structure
from cyad.activity import (
    Active, Annotation, BatchDuplicated, BatchDuplicatedNoNeed, BatchMixedDuplicated, Const, Duplicated, DuplicatedNoNeed,
    Forward, MixedDuplicated, Ref, Reverse,
)
from cyad.errors import ActivityError, MissingRuleError
from cyad.rules.custom import (
    AUGMENTED, EASY, FORWARD, OVERRIDES, REVERSE, AugmentedReturn, Constant, RuleSet, described, wrap_like,
)

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyArray_Descr:
        pass
    PyTypeObject PyArray_Type
    PyArray_Descr* DescrFromType "PyArray_DescrFromType"(int typenum)
    ndarray PyArray_NewFromDescr(PyTypeObject* subtype, PyArray_Descr* descr, int nd, npy_intp* dims, npy_intp* strides,
                                 void* data, int flags, PyObject* obj)
    int PyArray_SetBaseObject(ndarray arr, object base) except -1

import_array()

cdef class Config:
    """What a rule is told about the call: width, mode, needs_primal, needs_shadow, overwritten, strong_zero."""

    cdef readonly int width
    cdef readonly object mode
    cdef readonly bint needs_primal
    cdef readonly bint needs_shadow
    cdef readonly tuple overwritten
    cdef readonly bint strong_zero

    def __repr__(self):
        return (f"Config(width={self.width}, mode={self.mode.name}, needs_primal={self.needs_primal}, needs_shadow={self.needs_shadow}, "
                f"overwritten={self.overwritten}, strong_zero={self.strong_zero})")


cdef object THROUGH = object()    # no rule serves the call: the function is differentiated through
cdef object FORWARD_STRONG = Forward.with_strong_zero(), REVERSE_STRONG = Reverse.with_strong_zero()
cdef dict UNBATCHED = {BatchDuplicated: Duplicated, BatchMixedDuplicated: MixedDuplicated}
cdef tuple FLEXIBLE = (Duplicated, Const), FLEXIBLE_BATCH = (BatchDuplicated, Const)


cdef inline Config new_config(Context ctx, int width, bint primal, bint shadow, tuple overwritten):
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


cdef inline object annotation(object kind, object val, object dval):
    """An annotation without the checks that a user's goes through."""
    out = kind.__new__(kind)
    out.val = val
    if dval is not None:
        out.dval = dval
    return out


# ---- arguments and results ------------------------------------------------------------------------------------------

cdef enum:
    PLAIN = 0     # no value of this context
    NUMBER = 1
    ARRAY = 2


cdef class Leaf:
    """A number or an array, as the context that differentiates the call has it."""

    cdef int kind
    cdef bint active
    cdef bint flexible   # holds no active value, but might take one
    cdef object value    # as the next level out sees it
    cdef object tracked
    cdef View place      # of arrays, and of numbers that do not fit a double
    cdef uint32_t slot


cdef class Part:
    """An argument, the function part, or the result: a leaf, or a structure of leaves."""

    cdef Leaf leaf
    cdef list leaves
    cdef object rebuild
    cdef object method       # for the state of a bound method: its function
    cdef object given
    cdef object activity     # a class, or several in order of preference
    cdef bint active

    cdef object val(self, bint locked):
        """What the rule sees as the value."""
        if self.leaf is not None:
            return locked_value(self.leaf) if locked else self.leaf.value
        if self.leaves is None:
            return self.given
        return self.rebuilt([locked_value(<Leaf>v) if locked else (<Leaf>v).value for v in self.leaves])

    cdef object rebuilt(self, list leaves):
        out = self.rebuild(leaves)
        return out if self.method is None else types.MethodType(self.method, out)

    cdef list each(self):
        return [self.leaf] if self.leaf is not None else self.leaves if self.leaves is not None else []


cdef object locked_value(Leaf leaf):
    """Memory as the reverse rule may see it: read-only."""
    cdef ndarray plain
    if leaf.kind != ARRAY or is_array(leaf.value):
        return leaf.value
    plain = leaf.place.primal()
    PyArray_CLEARFLAGS(plain, NPY_ARRAY_WRITEABLE)
    return plain


cdef Leaf leaf_of(Context ctx, object value):
    cdef Leaf leaf = Leaf.__new__(Leaf)
    cdef TrackedArray array
    cdef Buffer buf
    leaf.slot = NONE
    if is_scalar(value) and context_of(value) is ctx:
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


cdef inline bint is_simple(object value) noexcept:
    """Whether a value is known at a glance to be neither tracked nor a structure."""
    return PyFloat_CheckExact(value) or PyLong_CheckExact(value) or value is None or value is True or value is False or \
        PyUnicode_CheckExact(value) or is_float64(value)


cdef object opened(object value):
    """``(leaves, rebuild)`` of a structure that holds tracked values, None for anything else."""
    if is_simple(value) or not is_structure(value):
        return None
    leaves, rebuild = flatten(value)
    for leaf in leaves:
        if is_tracked(leaf):
            return leaves, rebuild
    return None


cdef Part part_of(Context ctx, object value, object structure, int width):
    """An argument, sorted: what has derivatives in it, and which activity that makes."""
    cdef Part part = Part.__new__(Part)
    cdef Leaf leaf
    cdef bint numbers = False, flexible = False
    part.given = value
    part.activity = Const
    if structure is None:
        if is_simple(value):
            return part
        leaf = part.leaf = leaf_of(ctx, value)
        if leaf.active:
            part.active = True
            part.activity = Active if leaf.kind == NUMBER and ctx.backward else Duplicated if width == 1 else BatchDuplicated
        elif leaf.flexible:
            part.activity = FLEXIBLE if width == 1 else FLEXIBLE_BATCH
        return part
    part.leaves = [leaf_of(ctx, v) for v in structure[0]]
    part.rebuild = structure[1]
    for leaf in part.leaves:
        part.active = part.active or leaf.active
        numbers = numbers or (leaf.active and leaf.kind == NUMBER)
        flexible = flexible or leaf.flexible
    if numbers and ctx.backward:
        part.activity = MixedDuplicated if width == 1 else BatchMixedDuplicated
    elif part.active:
        part.activity = Duplicated if width == 1 else BatchDuplicated
    elif flexible:
        part.activity = FLEXIBLE if width == 1 else FLEXIBLE_BATCH
    return part


cdef int only_read(Part part) except -1:
    """Notes that an argument will not be written: without a derivative it is Const, not what might get one."""
    cdef Leaf leaf
    for leaf in part.each():
        leaf.flexible = False
    if type(part.activity) is tuple:
        part.activity = Const
    return 0


cdef bint may_change(Part part) except -1:
    """Whether `reverse` may find an argument changed: objects that can, and that cyad does not put back."""
    if part.leaf is None and part.leaves is None:
        return False
    value = part.given
    if part.leaves is not None or part.leaf.kind != PLAIN or isinstance(value, (
            np.ndarray, np.generic, np.dtype, complex, bytes, type, types.FunctionType, types.BuiltinFunctionType, np.ufunc, range, slice)):
        return False
    return not (type(value) is tuple and all([is_simple(v) for v in value])) and type(value) is not Primitive


# ---- shadows --------------------------------------------------------------------------------------------------------

cdef double[2] NAN_DOUBLES = [NAN, NAN]
cdef float NAN_FLOAT = NAN


cdef object no_values(Leaf leaf):
    """What `augmented_primal` sees in the place of a shadow: NaN everywhere, and no way to write."""
    cdef npy_intp[64] strides
    cdef int i, typenum
    cdef void* data
    cdef ndarray like
    if leaf.kind != ARRAY:
        return NAN
    like = (<TrackedArray>leaf.tracked).arr
    typenum = PyArray_TYPE(like)
    if typenum == NPY_FLOAT:
        data = &NAN_FLOAT
    elif typenum == NPY_DOUBLE or typenum == NPY_CDOUBLE:
        data = NAN_DOUBLES
    else:
        return np.broadcast_to(np.array(NAN, like.dtype), leaf.place.shape_tuple())
    for i in range(PyArray_NDIM(like)):
        strides[i] = 0
    return PyArray_NewFromDescr(&PyArray_Type, DescrFromType(typenum), PyArray_NDIM(like), PyArray_DIMS(like), strides, data, 0, NULL)


cdef object zero_like(object value):
    """The shadow of a value that has none: numbers and plain arrays inside a structure."""
    return np.zeros_like(value) if isinstance(value, np.ndarray) else 0.0


cdef object tangent_leaf(Leaf leaf, int lane):
    """The tangent of a leaf in one lane, memory shared."""
    cdef double t
    if leaf.kind == PLAIN or not (leaf.active or leaf.flexible):
        return zero_like(leaf.value)
    if leaf.place is None:
        t = (<Dual>leaf.tracked).lanes[lane]
        return np.float32(t) if (<Dual>leaf.tracked).kind == SINGLE else t
    return lane_of(leaf.place, lane)


cdef object by_lane(object kind, list lanes):
    """Shadows as an annotation of that kind holds them."""
    if kind is MixedDuplicated or kind is BatchMixedDuplicated:
        lanes = [Ref(lane) for lane in lanes]
    return tuple(lanes) if kind.batched else lanes[0]


# ---- memory that rules write ----------------------------------------------------------------------------------------

cdef list saved_memory(Tape tape, list parts):
    """Copies of the writable arguments that the tape refers to already, or that may only be read: [(leaf, copy),
    ...]."""
    cdef list out = None
    cdef Part part
    cdef Leaf leaf
    cdef Buffer buf
    for part in parts:
        for leaf in part.each():
            if leaf.kind != ARRAY:
                continue
            buf = leaf.place.buf
            if not PyArray_CHKFLAGS((<TrackedArray>leaf.tracked).arr, NPY_ARRAY_WRITEABLE):
                continue
            buf.written = True   # for all that we know
            if buf.conflict or (buf.referred and leaf.place.last > buf.referred_from and buf.referred_to > leaf.place.first):
                if out is None:
                    out = []
                out.append((leaf, leaf.value.copy() if is_array(leaf.value) else own_copy(<ndarray>leaf.value)))
    return out


cdef bint same_bytes(ndarray a, ndarray b) except -1:
    """Whether a copy still is what it was taken of."""
    if not (PyArray_ISONESEGMENT(a) and PyArray_ISONESEGMENT(b)):
        a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return memcmp(PyArray_DATA(a), PyArray_DATA(b), PyArray_NBYTES(a)) == 0


cdef int log_writes(Tape tape, list saved) except -1:
    """An undo record for all that a rule did write."""
    cdef Leaf leaf
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


cdef int refer_to(Tape tape, Part part) except -1:
    """The sweep will show this memory to the rule: later writes are logged, captured arrays kept as they are."""
    cdef Leaf leaf
    for leaf in part.each():
        if leaf.kind == ARRAY:
            tape.refer(leaf.place, (<TrackedArray>leaf.tracked).arr)
        elif leaf.kind == PLAIN and type(leaf.value) is ndarray:
            leaf.value = tape.guard(leaf.value)
    return 0


cdef Leaf home_of(list parts, ndarray plain):
    """The argument in whose memory an array lies."""
    cdef Part part
    cdef Leaf leaf
    cdef Py_ssize_t low, high, first
    if PyArray_NBYTES(plain) == 0:
        return None
    low, high = extent_of(plain)
    for part in parts:
        for leaf in part.each():
            if leaf.kind == ARRAY:
                first = <Py_ssize_t>leaf.place.buf.data
                if first <= low and high <= first + leaf.place.buf.nbytes and PyArray_TYPE(plain) == leaf.place.typenum:
                    return leaf
    return None


# ---- one call -------------------------------------------------------------------------------------------------------

cdef class Call:
    """A call of a function that has rules, while it is served."""

    cdef Context ctx
    cdef object function     # what rules get as func.val
    cdef object rules
    cdef Part own            # the function part
    cdef list parts          # arguments, keywords after positional ones
    cdef list everything     # with the function part first
    cdef tuple names         # of the keywords
    cdef bint active
    cdef bint needs_primal
    cdef object returned     # the activity that autodiff was given, where this is what it differentiates
    cdef bint built_in       # cyad has a rule of its own for what these do not take

    cdef object note(self, object error, object rule):
        """Says on an exception where it comes from."""
        text = (f"in the {rule.kind} rule {rule.name} of {self.rules.name}, while {described(self.ctx.title) if self.ctx.title is not None else 'a function'} "
                "was differentiated")
        if isinstance(error, ValueError) and "read-only" in str(error):
            text += ("; a rule cannot write shadows in augmented_primal (they have no values yet) nor values in reverse (memory must "
                     "stay as the function left it): work on a copy")
        error.add_note(text)

    cdef int wrong(self, object rule, str what) except -1:
        raise ActivityError(f"the {rule.kind} rule {rule.name} of {self.rules.name} {what}")

    cdef tuple activities(self, bint unbatched):
        cdef Part part
        cdef list out = []
        for part in self.parts:
            a = part.activity
            if unbatched:
                a = FLEXIBLE if a is FLEXIBLE_BATCH else UNBATCHED.get(a, a)
            out.append(a)
        return tuple(out)

    cdef object own_activity(self, bint unbatched):
        a = self.own.activity
        if type(a) is tuple:
            a = a[0]
        return UNBATCHED.get(a, a) if unbatched else a

    cdef tuple changing(self):
        cdef Part part
        return tuple([may_change(part) for part in self.everything])

    cdef object positional(self, list values):
        return tuple(values[:len(values) - len(self.names)])

    cdef object keywords(self, list values):
        if not self.names:
            return {}
        return dict(zip(self.names, values[len(values) - len(self.names):]))

    cdef object run(self, object rule, tuple leading, list annotations):
        """Calls a rule one level out; NotImplemented where it declines."""
        cdef PyObject* old = swap_current(<PyObject*>self.ctx.outer if self.ctx.outer is not None else NULL)
        try:
            if self.names:
                out = rule.function(*leading, *self.positional(annotations), **self.keywords(annotations))
            else:
                out = rule.function(*leading, *annotations)
        except Exception as error:
            self.note(error, rule)
            raise
        finally:
            swap_current(old)
        return out

    cdef int untouched(self, object rule, object annotations, list vals, list dvals) except -1:
        """Whether a rule wrote into shadows and values, instead of putting others in their place."""
        cdef Py_ssize_t i
        for i in range(len(annotations)):
            a = annotations[i]
            if a.val is not vals[i] or (dvals[i] is not None and a.dval is not dvals[i]):
                self.wrong(rule, f"assigned {'val' if a.val is not vals[i] else 'dval'} of argument {i + 1}, which is lost; write into "
                                 "the array: x.dval[...] = ...")
        return 0

    cdef object plainly(self):
        """Nothing is active: the function itself, one level out, with what it writes undone in the sweep."""
        cdef list saved = None, values
        cdef Part part
        if self.ctx.backward and not self.rules.reads_only:
            saved = saved_memory(<Tape>self.ctx, self.everything)
        values = [(<Part>p).val(False) for p in self.parts]
        out = run_primal(self.ctx, self.function if self.own.leaves is None else self.own.val(False),
                         self.positional(values), self.keywords(values))
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
        if isinstance(out, np.ndarray):
            home = home_of(self.everything, <ndarray>plain_value(out))
            if home is not None:
                return self.view_in(home, out)
        return wrap_inactive(self.ctx, out)

    cdef object view_in(self, Leaf home, object out):
        return home.tracked if out is home.value else wrap_view(<TrackedArray>home.tracked, out)

    cdef int check_level(self, object rule, object value) except -1:
        cdef Context own = context_of(value)
        if own is not None and (own is self.ctx or own.level > self.ctx.level):
            self.wrong(rule, "returned a value of the call that is being differentiated: it captured an active value, whose derivative "
                             "the rule cannot know. Pass that value as an argument")
        return 0

    # -- forward -----------------------------------------------------------------------------------------------------

    cdef object forward(self):
        cdef ForwardContext ctx = <ForwardContext>self.ctx
        cdef int width = ctx.width, lane
        cdef bint lanewise = False
        cdef tuple rets
        if width == 1:
            rets = (Duplicated,) if self.needs_primal else (DuplicatedNoNeed, Duplicated)
        else:
            rets = (BatchDuplicated,) if self.needs_primal else (BatchDuplicatedNoNeed, BatchDuplicated)
        if self.returned is Const:
            rets = (Const,) + rets
        found = self.rules.pick(FORWARD, self.own_activity(False), rets, self.activities(False), self.names)
        if not found and width > 1:
            lanewise = True
            rets = tuple([{BatchDuplicated: Duplicated, BatchDuplicatedNoNeed: DuplicatedNoNeed}.get(r, r) for r in rets])
            found = self.rules.pick(FORWARD, self.own_activity(True), rets, self.activities(True), self.names)
        for rule, ret, taken in found:
            out = self.forward_lanes(rule, ret, taken) if lanewise else self.forward_by(rule, ret, taken, 0, width)
            if out is not NotImplemented:
                return self.forward_result(rule, out[0], out[1], taken)
        easy = self.easy()
        if easy is not THROUGH or found or self.built_in:
            return easy
        if self.rules.rules[FORWARD]:
            raise MissingRuleError(self.rules.unmatched(FORWARD, self.own_activity(False), rets, self.activities(False), self.names))
        return THROUGH

    cdef object forward_by(self, object rule, object ret, tuple taken, int first, int width):
        """One call of a forward rule, for `width` lanes: (primal, list of tangents or None), or NotImplemented."""
        cdef list annotations = [], vals = [], dvals = []
        cdef Part part
        cdef Leaf leaf
        cdef Py_ssize_t i
        cdef int lane
        cdef bint primal = ret is Duplicated or ret is BatchDuplicated or (ret is Const and self.needs_primal)
        cdef bint shadow = ret is not Const
        cdef Config config = new_config(self.ctx, width, primal, shadow, self.changing())
        for i in range(len(self.everything)):
            part = self.everything[i]
            kind = taken[i - 1] if i else (UNBATCHED.get(self.own_activity(False), self.own_activity(False)) if width == 1
                                           else self.own_activity(False))
            val = self.function if i == 0 and part.leaves is None else part.val(self.rules.reads_only)
            dval = None
            if kind is not Const:
                for leaf in part.each():
                    if leaf.kind == ARRAY and leaf.flexible:
                        ensure_lanes(self.ctx, leaf.place.buf, self.ctx.width)
                if part.leaf is not None:
                    dval = by_lane(kind, [tangent_leaf(part.leaf, lane) for lane in range(first, first + width)])
                else:
                    dval = by_lane(kind, [part.rebuilt([tangent_leaf(leaf, lane) for leaf in part.leaves])
                                          for lane in range(first, first + width)])
            annotations.append(annotation(kind, val, dval))
            vals.append(val)
            dvals.append(dval)
        out = self.run(rule, (config, annotations[0], ret), annotations[1:])
        if out is NotImplemented:
            return out
        self.untouched(rule, annotations, vals, dvals)
        return self.forward_return(rule, out, primal, shadow, width)

    cdef tuple forward_return(self, object rule, object out, bint primal, bint shadow, int width):
        """What a forward rule returned, taken apart: (primal, tangents by lane, or None for none)."""
        if isinstance(out, Annotation):
            if isinstance(out, Const):
                return out.val, None
            if isinstance(out, Duplicated if width == 1 else BatchDuplicated):
                lanes = (out.dval,) if width == 1 else out.dval
                if len(lanes) != width:
                    self.wrong(rule, f"returned {len(lanes)} shadows for a batch of {width}")
                return out.val, list(lanes)
            self.wrong(rule, f"returned {type(out).__name__} where {'Duplicated' if width == 1 else 'BatchDuplicated'} was due")
        if out is None:
            return None, None
        if primal and shadow:
            pair = "Duplicated(primal, shadow)" if width == 1 else f"BatchDuplicated(primal, ({width} shadows))"
            self.wrong(rule, f"returned {kind_of(out)} where {pair} was due: the config needs both")
        if primal:
            return out, None
        if not shadow:
            self.wrong(rule, f"returned {kind_of(out)} where nothing was due: the config needs neither primal nor shadow")
        if width == 1:
            return out, [out]
        if type(out) is not tuple or len(out) != width:
            self.wrong(rule, f"returned {kind_of(out)} where a tuple of {width} shadows was due")
        return out[0], list(out)

    cdef object forward_lanes(self, object rule, object ret, tuple taken):
        """A rule that knows no batches, lane by lane, from the same memory each time."""
        cdef list before = [], lanes = []
        cdef Part part
        cdef Leaf leaf
        cdef int lane
        primal = None
        for part in self.everything:
            for leaf in part.each():
                if leaf.kind == ARRAY and PyArray_CHKFLAGS((<TrackedArray>leaf.tracked).arr, NPY_ARRAY_WRITEABLE):
                    before.append((leaf.value, leaf.value.copy() if is_array(leaf.value) else own_copy(<ndarray>leaf.value)))
        for lane in range(self.ctx.width):
            if lane:
                for memory, copy in before:
                    memory[...] = copy
            out = self.forward_by(rule, ret, taken, lane, 1)
            if out is NotImplemented:
                return out
            if lane == 0:
                primal = out[0]
            if out[1] is not None:
                lanes.append(out[1][0])
        if lanes and len(lanes) != self.ctx.width:
            self.wrong(rule, "returned a shadow in some lanes only")
        return primal, lanes or None

    cdef object forward_result(self, object rule, object primal, object lanes, tuple taken):
        cdef Part part
        cdef Leaf leaf
        cdef Py_ssize_t i
        for i in range(len(self.everything)):
            part = self.everything[i]
            if i == 0 or taken[i - 1] is not Const:
                for leaf in part.each():
                    if leaf.flexible and (leaf.place.buf.shadow is not NULL or leaf.place.buf.lanes is not None):
                        leaf.place.buf.active = True
        return self.wrap_forward(rule, primal, lanes)

    cdef object wrap_forward(self, object rule, object primal, object lanes):
        cdef ForwardContext ctx = <ForwardContext>self.ctx
        cdef TrackedArray view
        cdef int lane
        self.check_level(rule, primal)
        if is_structure(primal):
            leaves, rebuild = flatten(primal)
            parts = [flatten(t)[0] for t in lanes] if lanes is not None else []
            for p in parts:
                if len(p) != len(leaves):
                    self.wrong(rule, f"returned a shadow of {len(p)} numbers and arrays for a primal of {len(leaves)}")
            return rebuild([self.wrap_forward(rule, v, [p[i] for p in parts] if parts else None) for i, v in enumerate(leaves)])
        if not is_leaf(primal):
            if lanes is not None and any([is_leaf(t) and np.any(plain_value(t)) for t in lanes]):
                self.wrong(rule, f"returned a shadow for {kind_of(primal)}, which has no derivative")
            return primal
        if lanes is not None:
            for t in lanes:
                self.check_level(rule, t)
                if not isinstance(t, (int, float, complex, np.ndarray, np.number)) or np.shape(plain_value(t)) != np.shape(plain_value(primal)):
                    self.wrong(rule, f"returned {kind_of(t)} as the shadow of {kind_of(primal)}")
        if isinstance(primal, np.ndarray):
            home = home_of(self.everything, <ndarray>plain_value(primal))
            if home is not None:
                view = self.view_in(home, primal)
                if lanes is not None and (view.place.buf.active or any([np.any(plain_value(t)) for t in lanes])):
                    check_storable(view)
                    ensure_lanes(ctx, view.place.buf, ctx.width)
                    view.place.buf.active = True
                    for lane in range(ctx.width):
                        lane_of(view.place, lane)[...] = lanes[lane]
                return view
            if lanes is None:
                return wrap_inactive(ctx, primal)
        return ctx.result(primal, lanes)

    # -- reverse -----------------------------------------------------------------------------------------------------

    cdef object record(self):
        cdef Tape tape = <Tape>self.ctx
        cdef int width = tape.width
        cdef bint unbatched = False
        cdef tuple rets
        if not (self.rules.rules[AUGMENTED] or self.rules.rules[REVERSE]):
            return self.easy()
        array, mixed = (Duplicated, MixedDuplicated) if width == 1 else (BatchDuplicated, BatchMixedDuplicated)
        rets = (Const, Active, array, mixed) if self.returned is Const else (Active, array, mixed, Const)
        found = self.rules.pick(AUGMENTED, self.own_activity(False), rets, self.activities(False), self.names)
        if not found and width > 1:
            unbatched = True
            rets = tuple([UNBATCHED.get(r, r) for r in rets])
            found = self.rules.pick(AUGMENTED, self.own_activity(True), rets, self.activities(True), self.names)
        for rule, ret, taken in found:
            out = self.augment(tape, rule, ret, taken, unbatched)
            if out is not NotImplemented:
                return out
        easy = self.easy()
        if easy is not THROUGH or found or self.built_in:
            return easy
        raise MissingRuleError(self.rules.unmatched(AUGMENTED, self.own_activity(False), rets, self.activities(False), self.names))

    cdef object augment(self, Tape tape, object rule, object ret, tuple taken, bint unbatched):
        """Runs an augmented_primal rule and puts its node on the tape."""
        cdef int width = 1 if unbatched else tape.width, lane
        cdef list annotations = [], vals = [], dvals = [], saved
        cdef Part part
        cdef Leaf leaf
        cdef Ruled node
        cdef Py_ssize_t i
        cdef Config config = new_config(tape, width, self.needs_primal,
                                        ret is not Const and issubclass(ret, (Duplicated, BatchDuplicated)), self.changing())
        cdef bint reads_only = self.rules.reads_only
        own = self.own_activity(unbatched)
        for i in range(len(self.everything)):
            part = self.everything[i]
            kind = taken[i - 1] if i else own
            if reads_only:
                refer_to(tape, part)   # before the rule looks: it may keep what it is given
            val = self.function if i == 0 and part.leaves is None else part.val(reads_only)
            dval = None
            if kind is not Const and kind is not Active:
                if part.leaf is not None:
                    shadow = no_values(part.leaf)
                    dval = by_lane(kind, [shadow] * width)
                else:
                    dval = by_lane(kind, [part.rebuilt([no_values(leaf) for leaf in part.leaves]) for lane in range(width)])
            annotations.append(annotation(kind, val, dval))
            vals.append(val)
            dvals.append(dval)
        saved = None if reads_only else saved_memory(tape, self.everything)
        out = self.run(rule, (config, annotations[0], ret), annotations[1:])
        if out is NotImplemented:
            return out
        if type(out) is not AugmentedReturn:
            self.wrong(rule, f"returned {kind_of(out)}; it must return AugmentedReturn(primal, shadow, tape)")
        self.untouched(rule, annotations, vals, dvals)
        log_writes(tape, saved)
        node = Ruled.__new__(Ruled)
        node.call = self
        node.config = config
        node.taken = taken
        node.own = own
        node.kept = out.tape
        node.shadow = out.shadow
        for i in range(len(self.everything)):
            part = self.everything[i]
            if not reads_only:
                refer_to(tape, part)
            if (taken[i - 1] if i else own) is not Const:
                for leaf in part.each():
                    if leaf.flexible:
                        leaf.active = True
                        leaf.place.buf.active = True
        result = self.wrap_reverse(tape, rule, out.primal, node, ret)
        node.pick(tape.width)
        tape.add_node(node)
        self.ctx = None   # the tape holds the node, which holds this call
        for part in self.everything:
            if part.leaf is not None or part.leaves is not None:
                part.given = None
            for leaf in part.each():
                leaf.tracked = None
        return result

    cdef object wrap_reverse(self, Tape tape, object rule, object primal, Ruled node, object ret):
        """The result as a value of the tape; the node learns where its adjoints are."""
        cdef Part part = Part.__new__(Part)
        cdef Leaf leaf
        cdef bint numbers = False, arrays = False
        node.result = part
        part.activity = Const
        if primal is None and self.needs_primal and rule.demands(ret) and ret is not Const:
            self.wrong(rule, "returned no primal, which the config needs")
        if primal is None and not self.needs_primal and self.returned is not Const:
            primal = NAN     # nobody will look at it
        if primal is None:
            return None
        self.check_level(rule, primal)
        if is_structure(primal):
            leaves, rebuild = flatten(primal)
            part.leaves = [self.result_leaf(tape, v, node) for v in leaves]
            part.rebuild = rebuild
            result = rebuild([(<Leaf>leaf).tracked for leaf in part.leaves])
        elif is_leaf(primal):
            part.leaf = self.result_leaf(tape, primal, node)
            result = part.leaf.tracked
        else:
            return primal
        for leaf in part.each():
            numbers = numbers or (leaf.active and leaf.kind == NUMBER)
            arrays = arrays or (leaf.active and leaf.kind == ARRAY)
            leaf.tracked = None
        part.active = numbers or arrays
        if numbers and not arrays:
            part.activity = Active
        elif arrays:
            part.activity = MixedDuplicated if numbers else Duplicated
        if not rule.accepts(part.activity if node.config.width == 1 else batched(part.activity)):
            self.wrong(rule, f"takes a return of activity {ret.__name__}, but the primal that it returned, {kind_of(primal)}, is "
                             f"{part.activity.__name__}; hint RT: type[{part.activity.__name__}], or leave the hint out")
        return result

    cdef Leaf result_leaf(self, Tape tape, object value, Ruled node):
        cdef Leaf leaf, home
        cdef list places = []
        if isinstance(value, np.ndarray):
            home = home_of(self.everything, <ndarray>plain_value(value))
            if home is not None:
                return leaf_of(tape, self.view_in(home, value))
        leaf = leaf_of(tape, tape.result(value, True, places, True))
        if leaf.kind != PLAIN:
            node.fresh.append(leaf)
        return leaf

    # -- partial derivatives -----------------------------------------------------------------------------------------

    cdef object easy(self):
        """An easy_rule: the function itself, linearised by its partial derivatives."""
        cdef Part part
        cdef Leaf leaf
        cdef list values, operands = [], pushes = [], pulls = []
        cdef Py_ssize_t i
        cdef PyObject* old
        if not self.rules.rules[EASY] or self.own.active:
            return THROUGH
        for rule, _, _ in self.rules.pick(EASY, None, (None,), tuple([Const] * len(self.parts)), self.names):
            for part in self.parts:
                if part.leaves is not None and part.active:
                    raise MissingRuleError(f"the easy_rule {rule.name} of {self.rules.name} takes numbers and arrays, not structures of them; "
                                           "write forward and reverse rules")
            values = [(<Part>p).val(False) for p in self.parts]
            out = run_primal(self.ctx, self.function, self.positional(values), self.keywords(values))
            out = self.apart(out, values)
            old = swap_current(<PyObject*>self.ctx.outer if self.ctx.outer is not None else NULL)
            try:
                # The plain run knows no derivatives, so it cannot warn of them.
                with np.errstate(all="ignore"):
                    rows = rule.function(out, *self.positional(values), **self.keywords(values))
            except Exception as error:
                self.note(error, rule)
                raise
            finally:
                swap_current(old)
            if rows is NotImplemented:
                continue
            outs = out if isinstance(out, (tuple, list)) else (out,)
            self.check_rows(rule, rows, outs)
            for i in range(len(self.parts)):
                part = self.parts[i]
                if not part.active:
                    continue
                column = self.column(rule, rows, outs, i, values)
                if all([p is None for p in column]):
                    continue
                maps = Partials(column, [np.ndim(plain_value(o)) for o in outs], np.ndim(plain_value(values[i])),
                                isinstance(out, (tuple, list)), self.ctx.strong)
                operands.append(part.leaf.tracked)
                pushes.append(maps.push)
                pulls.append(maps.pull)
            if not operands:
                return self.inactive(out)
            return self.ctx.link(out, operands, pushes, pulls, ([], False))
        return THROUGH

    cdef object apart(self, object out, list values):
        """A result in memory of its own: one that lies in an argument's would be another name of it."""
        if isinstance(out, (tuple, list)):
            parts = [self.apart(o, values) for o in out]
            return type(out)(parts) if type(out) in (tuple, list) else type(out)(*parts)
        return out.copy() if isinstance(out, np.ndarray) and overlaps_any(out, values) else out

    cdef int check_rows(self, object rule, object rows, object outs) except -1:
        if not isinstance(rows, (tuple, list)) or len(rows) != len(outs) or not all([isinstance(r, (tuple, list)) for r in rows]):
            self.wrong(rule, f"returned {kind_of(rows)}; it must return {len(outs)} tuple{'s' if len(outs) > 1 else ''} of partial derivatives, one for each "
                             "result: ((d1, d2, ...),) for a function with one result")
        for r in rows:
            if len(r) != len(self.parts):
                self.wrong(rule, f"returned {len(r)} partial derivatives for {len(self.parts)} arguments")
        return 0

    cdef list column(self, object rule, object rows, object outs, Py_ssize_t i, list values):
        """The partials of all results in the i-th argument, None for zero; their shapes checked, in memory of their
        own."""
        cdef list out = []
        shape = np.shape(plain_value(values[i]))
        for row, o in zip(rows, outs):
            p = row[i]
            if p is Constant:
                out.append(None)
                continue
            self.check_level(rule, p)
            due = np.shape(plain_value(o)) + shape
            if not isinstance(p, (int, float, complex, np.ndarray, np.number)) or np.shape(plain_value(p)) != due:
                self.wrong(rule, f"returned {kind_of(p)} as the partial derivative in argument {i + 1}; its shape is that of the result and "
                                 f"the argument together, {due or 'a number'}")
            if isinstance(p, np.ndarray) and overlaps_any(p, values + list(outs)):
                p = p.copy()
            out.append(p)
        return out


cdef bint overlaps_any(object array, object others) except -1:
    cdef Py_ssize_t low, high, first, last
    low, high = extent_of(<ndarray>plain_value(array))
    for other in others:
        plain = plain_value(other)
        if isinstance(plain, ndarray):
            first, last = extent_of(<ndarray>plain)
            if low < last and first < high:
                return True
    return False


cdef object kind_of(object value):
    """A value as an error message names it."""
    plain = plain_value(value)
    if isinstance(plain, np.ndarray):
        return f"an array of shape {plain.shape}"
    return "None" if value is None else f"a {type(plain).__name__}"


cdef object batched(object activity):
    return {Duplicated: BatchDuplicated, MixedDuplicated: BatchMixedDuplicated}.get(activity, activity)


class Partials:
    """The linear maps of an operand, from the partial derivatives of every result in it."""

    __slots__ = ("column", "dims", "ndim", "several", "strong")

    def __init__(self, column, dims, ndim, several, strong):
        self.column, self.dims, self.ndim, self.several, self.strong = column, dims, ndim, several, strong

    def push(self, t):
        # What has no derivative gets a zero that broadcasts.
        out = tuple([0.0 if p is None else contracted(p, t, dim, self.ndim, False, self.strong)
                     for p, dim in zip(self.column, self.dims, strict=True)])
        return out if self.several else out[0]

    def pull(self, g):
        gs = g if self.several and len(self.column) > 1 else (g,)
        total = None
        for p, dim, one in zip(self.column, self.dims, gs, strict=True):
            if p is None or one is None:
                continue
            c = contracted(np.conjugate(p) if np.iscomplexobj(plain_value(p)) else p, one, dim, self.ndim, True, self.strong)
            total = c if total is None else total + c
        return total


cdef object contracted(object p, object v, int out_ndim, int in_ndim, bint back, bint strong):
    """p of shape out + in, contracted with v over the axes of out (back) or of in."""
    cdef int axes = out_ndim if back else in_ndim
    if strong:
        wide = np.reshape(v, np.shape(v) + (1,) * in_ndim) if back else v
        wide = np.where(np.equal(plain_value(wide), 0), 0.0, p * wide) if np.ndim(wide) or np.ndim(p) else (p * wide if plain_value(wide) else 0.0 * wide)
        return np.sum(wide, axis=tuple(range(out_ndim)) if back else tuple(range(out_ndim, out_ndim + in_ndim))) if axes else wide
    if axes == 0:
        return p * v
    if out_ndim + in_ndim == axes:
        return np.sum(p * v)
    return np.tensordot(v, p, axes) if back else np.tensordot(p, v, axes)


# ---- the node -------------------------------------------------------------------------------------------------------

cdef class Ruled(Node):
    """A call that a reverse rule stands for."""

    cdef Call call
    cdef Config config
    cdef tuple taken       # activities of the arguments, as the rule got them
    cdef object own        # that of the function part
    cdef object kept       # the rule's tape
    cdef object shadow     # that of the result, where the rule made one
    cdef Part result
    cdef list fresh        # leaves of the result in memory of their own
    cdef object rule
    cdef int width         # lanes of the sweep that the rule was found for
    cdef int lanes         # lanes that it takes at a time

    def __cinit__(self):
        self.fresh = []

    cdef int pick(self, int width) except -1:
        """Finds the reverse rule for a number of lanes; one that knows no batches serves them one by one."""
        cdef Call call = self.call
        cdef bint several
        if self.width == width:
            return 0
        for several in range(width > 1, -1, -1):
            taken = tuple([batched(a) if several else UNBATCHED.get(a, a) for a in self.taken])
            own = batched(self.own) if several else UNBATCHED.get(self.own, self.own)
            ret = batched(self.result.activity) if several else self.result.activity
            found = call.rules.pick(REVERSE, own, (ret,), taken, call.names)
            if found:
                self.rule = found[0][0]
                self.taken, self.own = taken, own
                self.width = width
                self.lanes = width if several else 1
                return 0
        raise MissingRuleError(call.rules.unmatched(REVERSE, own, (ret,), taken, call.names))

    cdef int pullback(self, Recording tape) except -1:
        cdef Leaf leaf
        cdef int lane
        if self.arrived(tape):
            tape.hush()
            self.call.ctx = tape
            try:
                self.pick(tape.width)
                for lane in range(0, tape.width, self.lanes):
                    self.pull(tape, lane, self.lanes)
            finally:
                self.call.ctx = None   # the tape holds this node
        for leaf in self.fresh:
            if leaf.place is not None:
                leaf.place.buf.drop_shadow()
        return 0

    cdef bint arrived(self, Recording tape) except -1:
        """Whether any adjoint can have reached the result or the arguments."""
        cdef Part part
        cdef Leaf leaf
        cdef int lane
        for part in (self.result, *self.call.everything):
            for leaf in part.each():
                if not leaf.active:
                    continue
                if leaf.place is not None:
                    if leaf.place.buf.shadow is not NULL or leaf.place.buf.lanes is not None:
                        return True
                elif part is self.result:
                    for lane in range(tape.width):
                        if tape.adjoints[<size_t>leaf.slot * tape.width + lane] != 0.0:
                            return True
        return False

    cdef int pull(self, Recording tape, int first, int width) except -1:
        """One call of the reverse rule, for `width` lanes."""
        cdef Call call = self.call
        cdef list annotations = [], vals = [], dvals = [], private = []
        cdef Part part
        cdef Leaf leaf
        cdef Py_ssize_t i
        cdef int lane
        cdef Config config = self.config
        if config.width != width:
            config = new_config(tape, width, config.needs_primal, config.needs_shadow, config.overwritten)
        for i in range(len(call.everything)):
            part = call.everything[i]
            kind = self.taken[i - 1] if i else self.own
            val = call.function if i == 0 and part.leaves is None else part.val(True)
            dval = None
            if kind is not Const and kind is not Active:
                if part.leaf is not None:
                    dval = by_lane(kind, [self.shadow_leaf(tape, part.leaf, lane, private) for lane in range(first, first + width)])
                else:
                    dval = by_lane(kind, [part.rebuilt([self.shadow_leaf(tape, leaf, lane, private) for leaf in part.leaves])
                                          for lane in range(first, first + width)])
            annotations.append(annotation(kind, val, dval))
            vals.append(val)
            dvals.append(dval)
        dret = self.cotangent(tape, first, width)
        out = call.run(self.rule, (config, annotations[0], dret, self.kept), annotations[1:])
        call.untouched(self.rule, annotations, vals, dvals)
        for leaf, lane, shadow in private:
            lend_lanes(tape, leaf.place)
            add_to_lane(tape, leaf.place, lane, shadow)
        self.take_entries(tape, out, first, width)
        for i in range(len(call.everything)):
            kind = self.taken[i - 1] if i else self.own
            if kind is MixedDuplicated or kind is BatchMixedDuplicated:
                self.take_mixed(tape, call.everything[i], annotations[i], first, width)
        return 0

    cdef object shadow_leaf(self, Recording tape, Leaf leaf, int lane, list private):
        """The shadow of a leaf in one lane: the memory itself, or one of its own where two indices name one element."""
        if leaf.kind != ARRAY or not leaf.active:
            return zero_like(leaf.value)
        lend_lanes(tape, leaf.place)
        if not leaf.place.overlaps:
            return lane_of(leaf.place, lane)
        shadow = np.zeros(leaf.place.shape_tuple(), plain_value(leaf.value).dtype)
        private.append((leaf, lane, shadow))
        return shadow

    cdef object adjoint_leaf(self, Recording tape, Leaf leaf, int lane):
        if not leaf.active:
            return zero_like(leaf.value)
        g = adjoint_of(tape, leaf.place if leaf.place is not None else int(leaf.slot), lane)
        if g is None:
            if leaf.kind == ARRAY:
                lend_lanes(tape, leaf.place)
                return lane_of(leaf.place, lane)
            return 0.0
        return float(g) if type(g) is np.float64 else g

    cdef object cotangent(self, Recording tape, int first, int width):
        """`dret`: the adjoint of a number, the shadow of an array."""
        cdef Part part = self.result
        cdef Leaf leaf
        cdef int lane
        kind = part.activity if width == 1 else batched(part.activity)
        if kind is Const:
            return Const if self.rule.wants_class else annotation(Const, part.val(True), None)
        if part.leaf is not None:
            lanes = [self.adjoint_leaf(tape, part.leaf, lane) for lane in range(first, first + width)]
        else:
            lanes = [part.rebuilt([self.adjoint_leaf(tape, leaf, lane) for leaf in part.leaves]) for lane in range(first, first + width)]
        if kind is Active:
            return annotation(Active, lanes[0] if width == 1 else tuple(lanes), None)
        if self.shadow is not None:
            lanes = self.lend(lanes, first, width)
        return kind if self.rule.wants_class else annotation(kind, part.val(True), by_lane(kind, lanes))

    cdef list lend(self, list lanes, int first, int width):
        """Copies adjoints into the shadows that augmented_primal made for its result."""
        own = self.shadow if isinstance(self.shadow, tuple) and self.config.width > 1 else (self.shadow,)
        own = list(own[first:first + width] if len(own) > 1 else own)
        if len(own) != width:
            self.call.wrong(self.rule, f"needs {width} shadows of the result; augmented_primal made {len(own)}")
        for mine, lane in zip(own, lanes):
            targets, sources = flatten(mine)[0], flatten(lane)[0]
            if len(targets) != len(sources):
                self.call.wrong(self.rule, f"got a shadow of {len(targets)} numbers and arrays from augmented_primal, for a result of {len(sources)}")
            for target, source in zip(targets, sources):
                if isinstance(target, np.ndarray) and plain_value(target).flags.writeable:
                    target[...] = source
        return own

    cdef int take_entries(self, Recording tape, object out, int first, int width) except -1:
        """Adds the derivatives that the rule returned for Active arguments."""
        cdef Call call = self.call
        cdef Part part
        cdef Py_ssize_t i
        cdef int lane
        if type(out) is not tuple or len(out) != len(call.parts):
            got = f"a tuple of {len(out)}" if type(out) is tuple else kind_of(out)
            call.wrong(self.rule, f"returned {got}; it must return a tuple with one entry for each of the {len(call.parts)} arguments: the derivative "
                                  "for Active ones, None for all others")
        for i in range(len(call.parts)):
            if self.taken[i] is not Active:
                if out[i] is not None:
                    call.wrong(self.rule, f"returned {kind_of(out[i])} for argument {i + 1}, which is {self.taken[i].__name__}; its derivative "
                                          "is added to its shadow, and its entry is None")
                continue
            part = call.parts[i]
            entries = out[i] if width > 1 else (out[i],)
            if out[i] is None:
                call.wrong(self.rule, f"returned None for argument {i + 1}, which is Active: return its derivative")
            if type(entries) is not tuple or len(entries) != width:
                call.wrong(self.rule, f"returned {kind_of(entries)} for argument {i + 1}; for {width} lanes it is a tuple of {width}")
            for lane in range(width):
                self.add_number(tape, part.leaf, first + lane, entries[lane], i)
        return 0

    cdef int add_number(self, Recording tape, Leaf leaf, int lane, object c, Py_ssize_t i) except -1:
        if not isinstance(c, (int, float, complex, np.number, np.ndarray)) or np.ndim(plain_value(c)):
            self.call.wrong(self.rule, f"returned {kind_of(c)} for argument {i + 1}, which is a number")
        self.call.check_level(self.rule, c)
        if leaf.place is None:
            tape.adjoints[<size_t>leaf.slot * tape.width + lane] += float(np.real(c)) if not PyFloat_CheckExact(c) else <double>c
            return 0
        lend_lanes(tape, leaf.place)
        return add_to_lane(tape, leaf.place, lane, c[()] if isinstance(c, np.ndarray) else c)

    cdef int take_mixed(self, Recording tape, Part part, object given, int first, int width) except -1:
        """The derivatives by numbers inside a structure, which the rule left in its Ref."""
        cdef Leaf leaf
        cdef int lane
        refs = given.dval if width > 1 else (given.dval,)
        for lane in range(width):
            leaves = flatten(refs[lane].value if part.method is None else refs[lane].value.__self__)[0]
            if len(leaves) != len(part.leaves):
                self.call.wrong(self.rule, f"left a shadow of {len(leaves)} numbers and arrays for a structure of {len(part.leaves)}")
            for leaf, c in zip(part.leaves, leaves):
                if leaf.active and leaf.kind == NUMBER:
                    self.add_number(tape, leaf, first + lane, c, 0)
        return 0


# ---- finding the context --------------------------------------------------------------------------------------------

cdef object serve(object function, object rules, object state, object args, dict kwargs, bint needs_primal, object returned,
                  bint built_in):
    """A call of a function that has rules; THROUGH where none serves it."""
    cdef Call call
    cdef Context ctx = None
    cdef Part part
    cdef list values = list(args), structures = []
    cdef Py_ssize_t i
    cdef bint structured = False
    if kwargs:
        values.extend(kwargs.values())
    for i in range(len(values)):
        v = values[i]
        structure = None
        if is_tracked(v):
            ctx = higher(ctx, context_of(v))
        elif isinstance(v, ndarray):
            if (<ndarray>v).dtype.hasobject:
                values[i] = object_operand(v)
                ctx = higher(ctx, context_of(values[i]))
        elif not is_simple(v):
            structure = opened(v)
            if structure is not None:
                structured = True
                for leaf in structure[0]:
                    ctx = higher(ctx, context_of(leaf))
        structures.append(structure)
    owned = opened(state) if state is not None else None
    if owned is not None:
        for leaf in owned[0]:
            ctx = higher(ctx, context_of(leaf))
    if ctx is None:
        return THROUGH
    check_alive(ctx)
    call = Call.__new__(Call)
    call.ctx = ctx
    call.function = function
    call.rules = rules
    call.names = tuple(kwargs) if kwargs else ()
    call.needs_primal = needs_primal
    call.returned = returned
    call.built_in = built_in
    call.own = part_of(ctx, function if owned is None else state, owned, ctx.width) if owned is not None else own_part(function)
    if owned is not None:
        call.own.method = getattr(unwrapped(function), "__func__", None)
    call.parts = []
    call.active = call.own.active
    for i in range(len(values)):
        part = part_of(ctx, values[i], structures[i], ctx.width)
        call.parts.append(part)
        call.active = call.active or part.active
    call.everything = [call.own] + call.parts
    if rules.reads_only:
        for part in call.parts:
            only_read(part)
    if not call.active:
        return THROUGH if built_in else call.plainly()
    return call.record() if ctx.backward else call.forward()


cdef Part own_part(object function):
    cdef Part part = Part.__new__(Part)
    part.given = function
    part.activity = Const
    return part


cdef object unwrapped(object function):
    return (<Primitive>function).function if type(function) is Primitive else function


def overridden(func, args, kwargs):
    """The hook of `_dispatch`: a NumPy function that has an entry in OVERRIDES. NotImplemented lets cyad's own rule
    serve."""
    rules = OVERRIDES.get(func)
    if rules is None:
        return NotImplemented
    return numpy_call(func, rules, args, kwargs, True, None)


cdef object numpy_call(object func, object rules, object args, dict kwargs, bint needs_primal, object returned):
    out = serve(func, rules, None, args, kwargs, needs_primal, returned, True)
    return NotImplemented if out is THROUGH else out


# ---- primitives -----------------------------------------------------------------------------------------------------

cdef class Primitive:
    """A function whose calls cyad sees, so that it can have rules."""

    cdef object function
    cdef object rules
    cdef object state      # the object behind a bound method, a callable object
    cdef dict __dict__

    @property
    def __cyad_rules__(self):
        return self.rules

    def __call__(self, *args, **kwargs):
        cdef bint tracked = current() is not NULL
        if not tracked:
            for v in args:
                if is_tracked(v):
                    tracked = True
            if kwargs:
                for v in kwargs.values():
                    if is_tracked(v):
                        tracked = True
        if not tracked or not self.rules:
            return self.function(*args, **kwargs)
        out = serve(self, self.rules, self.state, args, kwargs, True, None, False)
        return self.function(*args, **kwargs) if out is THROUGH else out

    def __get__(self, instance, owner):
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self):
        return f"<primitive {described(self.function)}>"

    def __reduce__(self):
        return described(self.function)


def primitive(f):
    """Makes the calls of a function visible, so that rules can say what its derivative is.

    Without rules the function is differentiated through, as if it had not been decorated; outside differentiated
    calls the primitive is the function. Methods and callable objects may be decorated as well. NumPy functions and
    ufuncs are visible as they are, and returned unchanged. See `cyad.rules`.

    Raises TypeError for what cannot be called. Any number of threads may call a primitive.

    >>> import numpy as np
    >>> import cyad
    >>> @cyad.primitive
    ... def log_gamma(x):
    ...     import math
    ...     return math.lgamma(x)
    >>> @cyad.rules.easy_rule(log_gamma)
    ... def log_gamma_partials(out, x):
    ...     h = 1e-6
    ...     return (((log_gamma(x + h) - log_gamma(x - h)) / (2 * h),),)
    >>> round(cyad.gradient(cyad.Reverse, log_gamma, 3.0)[0], 6)
    0.922784
    """
    cdef Primitive out
    if not callable(f):
        raise TypeError(f"primitive takes a function, not a {type(f).__name__}")
    if type(f) is Primitive or isinstance(f, np.ufunc) or hasattr(f, "_implementation"):
        return f
    out = Primitive.__new__(Primitive)
    out.function = f
    out.rules = RuleSet(described(f))
    state = getattr(f, "__self__", None) if isinstance(f, types.MethodType) else f
    if is_structure(state):
        out.state = state
    return wrap_like(out, f)


class Outermost:
    """What `autodiff` was given, where that has rules: they are told whether anybody looks at the value."""

    def __init__(self, f, needs_primal, returned):
        self.f, self.needs_primal, self.returned = f, needs_primal, returned
        self.__qualname__ = described(f)

    def __call__(self, *args, **kwargs):
        f = self.f
        if type(f) is Primitive:
            out = serve(f, (<Primitive>f).rules, (<Primitive>f).state, args, kwargs, self.needs_primal, self.returned, False)
            return (<Primitive>f).function(*args, **kwargs) if out is THROUGH else out
        rules = OVERRIDES.get(f)
        out = NotImplemented if rules is None else numpy_call(f, rules, args, kwargs, self.needs_primal, self.returned)
        return f(*args, **kwargs) if out is NotImplemented else out


def outermost(f, mode, returned):
    """`f` as `autodiff` calls it: itself, unless it has rules."""
    if type(f) is Primitive:
        if not (<Primitive>f).rules:
            return f
    elif not OVERRIDES or not (isinstance(f, np.ufunc) or hasattr(f, "_implementation")) or f not in OVERRIDES:
        return f
    # Without an activity asked for, reverse mode must see the value to know what it is.
    return Outermost(f, mode.primal or (returned is None and not mode.forward), returned)


register_custom(overridden)
