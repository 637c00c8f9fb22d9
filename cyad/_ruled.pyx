"""How a user's rule serves a call, in forward and in reverse mode.

Forward: the shadows in the annotations are the tangents in memory, and the rule's result is wrapped with the
tangents that it returns. Reverse: `augmented_primal` runs at once, and one node (`Ruled`) stands for the call; its
pullback hands the shadows of arguments and result to `reverse`. What the rule was given and gave is referred to
from then on, so that the sweep finds memory as the rule left it; there it is handed out read-only. Shadows do not
exist yet when `augmented_primal` runs: it is shown arrays that read as NaN and refuse to be written.

A rule that takes no batches serves them lane by lane: in forward mode from the same memory each time.

Rejected: handing out the caller's shadow in `augmented_primal` (those of temporaries do not exist, and what a rule
read there would be no derivative yet); private shadows for results that the rule made shadows for (copying a lane
into them is simpler, and right when the tape is swept again).

Thread safety: as the contexts.
"""
cimport cython
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.ref cimport PyObject, PyTypeObject
from libc.math cimport NAN
from numpy cimport (
    NPY_CDOUBLE, NPY_DOUBLE, NPY_FLOAT, PyArray_DIMS, PyArray_NDIM, PyArray_TYPE, import_array, ndarray, npy_intp,
)

from cyad._adjoint cimport Adjoint, Tape
from cyad._context cimport (
    SINGLE, TrackedArray, add_to_lane, check_storable, ensure_lanes, is_float64, lane_of, plain_value, run_plain,
)
from cyad._dual cimport Dual, ForwardContext
from cyad._nodes cimport Node, Recording, adjoint_of, lend_lanes
from cyad._rulecall cimport (
    ARRAY, NUMBER, PLAIN, STRUCTURE, Call, Config, Part, annotation, batched, by_lane, copy_of, kind_of, leaf_of,
    log_writes, new_config, saved_memory, unbatched, view_in, writable, zero_like,
)

import numpy as np

from cyad._rulecall import THROUGH as _THROUGH
from cyad._matching import shadow_like
from cyad._structures import flatten, is_leaf, is_structure
from cyad.activity import (
    Active, Annotation, BatchDuplicated, BatchDuplicatedNoNeed, BatchMixedDuplicated, Const, Duplicated,
    DuplicatedNoNeed, MixedDuplicated,
)
from cyad.errors import ActivityError, MissingRuleError
from cyad.rules.custom import AUGMENTED, FORWARD, REVERSE, AugmentedReturn

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyArray_Descr:
        pass
    PyTypeObject PyArray_Type
    PyArray_Descr* DescrFromType "PyArray_DescrFromType"(int typenum)
    ndarray PyArray_NewFromDescr(PyTypeObject* subtype, PyArray_Descr* descr, int nd, npy_intp* dims, npy_intp* strides,
                                 void* data, int flags, PyObject* obj)

import_array()

cdef object THROUGH = _THROUGH
cdef tuple NUMBERS = (int, float, complex, np.number, np.ndarray)

# What a return may be taken for, the most likely first.
cdef tuple FORWARD_RETURNS = (Duplicated,), FORWARD_RETURNS_NO_NEED = (DuplicatedNoNeed, Duplicated)
cdef tuple BATCH_RETURNS = (BatchDuplicated,), BATCH_RETURNS_NO_NEED = (BatchDuplicatedNoNeed, BatchDuplicated)
cdef tuple REVERSE_RETURNS = (Active, Duplicated, MixedDuplicated, Const)
cdef tuple BATCH_REVERSE_RETURNS = (Active, BatchDuplicated, BatchMixedDuplicated, Const)


cdef object serve(Call call):
    """The result of a call, tracked; THROUGH where no rule serves it."""
    if not call.active:
        return THROUGH if call.built_in else call.plainly()
    return record(call) if call.ctx.backward else push_forward(call)


cdef tuple with_const(Call call, tuple returns):
    return (Const, *[r for r in returns if r is not Const]) if call.returned is Const else returns


cdef object unmatched(Call call, object kind, tuple returns):
    """Nothing took the activities: an error, but for functions that cyad has a rule for itself."""
    if call.built_in:
        return THROUGH
    raise MissingRuleError(call.rules.unmatched(kind, call.own_activity(False), returns, call.activities(False),
                                                call.names))


# ---- forward --------------------------------------------------------------------------------------------------------

cdef object push_forward(Call call):
    cdef int width = call.ctx.width
    cdef tuple singles = with_const(call, FORWARD_RETURNS if call.needs_primal else FORWARD_RETURNS_NO_NEED)
    cdef tuple returns = singles
    cdef bint lanewise = False
    if width > 1:
        returns = with_const(call, BATCH_RETURNS if call.needs_primal else BATCH_RETURNS_NO_NEED)
    found = call.pick(FORWARD, call.own_activity(False), returns, call.activities(False))
    if not found and width > 1:
        lanewise = True
        found = call.pick(FORWARD, call.own_activity(True), singles, call.activities(True))
    for rule, ret, taken in found:
        out = by_lanes(call, rule, ret, taken) if lanewise else one_push(call, rule, ret, taken, 0, width)
        if out is not NotImplemented:
            activate(call, taken)
            return wrap_forward(call, rule, out[0], out[1])
    out = call.easy()
    return out if out is not THROUGH or found or not call.rules.rules[FORWARD] else unmatched(call, FORWARD, returns)


cdef object tangents(Part part, object kind, int first, int width):
    """The shadows of an argument as an annotation of that kind holds them."""
    cdef int lane
    cdef list lanes
    if kind is Const:
        return None
    if kind is Duplicated:
        return tangent(part, first)
    lanes = []
    for lane in range(first, first + width):
        lanes.append(tangent(part, lane))
    return by_lane(kind, lanes)


cdef object tangent(Part part, int lane):
    """The tangent in one lane, memory shared."""
    cdef double t
    cdef Part leaf
    if part.kind == STRUCTURE:
        return part.rebuilt([tangent(<Part>p, lane) for p in part.leaves])
    if part.kind == PLAIN or not (part.active or part.flexible):
        return zero_like(part.value)
    if part.place is None:
        t = (<Dual>part.tracked).lanes[lane]
        return np.float32(t) if (<Dual>part.tracked).kind == SINGLE else t
    return lane_of(part.place, lane)


cdef object one_push(Call call, object rule, object ret, tuple taken, int first, int width):
    """One call of a forward rule, for `width` lanes: (primal, list of tangents or None), or NotImplemented."""
    cdef list arguments = [], seen = []
    cdef Part part
    cdef Py_ssize_t i
    cdef bint primal = ret is Duplicated or ret is BatchDuplicated or (ret is Const and call.needs_primal)
    for part in call.arrays:
        if part.flexible:
            ensure_lanes(call.ctx, part.place.buf, call.ctx.width)
    arguments.append(new_config(call.ctx, width, primal, ret is not Const, call.overwritten()))
    if call.own is None:
        arguments.append(call.constant)
    else:
        kind = call.own_activity(width == 1)
        arguments.append(annotation(kind, call.own.val(False), tangents(call.own, kind, first, width)))
    arguments.append(ret)
    for i in range(len(taken)):
        part = call.parts[i]
        val, dval = part.val(call.reads_only), tangents(part, taken[i], first, width)
        arguments.append(annotation(taken[i], val, dval))
        seen.append(val)
        seen.append(dval)
    out = call.run(rule, arguments)
    if out is NotImplemented:
        return out
    for i in range(len(taken)):
        call.untouched(rule, arguments[3 + i], seen[2 * i], seen[2 * i + 1], i + 1)
    return forward_return(call, rule, out, primal, ret is not Const, width)


cdef tuple forward_return(Call call, object rule, object out, bint primal, bint shadow, int width):
    """What a forward rule returned, taken apart: (primal, tangents by lane, or None for none)."""
    if isinstance(out, Annotation):
        if isinstance(out, Const):
            return out.val, None
        if width == 1 and isinstance(out, Duplicated):
            return out.val, [out.dval]
        if width > 1 and isinstance(out, BatchDuplicated):
            if len(out.dval) != width:
                call.wrong(rule, f"returned {len(out.dval)} shadows for a batch of {width}")
            return out.val, list(out.dval)
        due = "Duplicated" if width == 1 else "BatchDuplicated"
        call.wrong(rule, f"returned {type(out).__name__} where {due} was due")
    if out is None:
        if primal and shadow and returns_something(call):
            due = "Duplicated(primal, shadow)" if width == 1 else f"BatchDuplicated(primal, ({width} shadows))"
            call.wrong(rule, f"returned None where {due} was due: the config needs both")
        return None, None
    if primal and shadow:
        due = "Duplicated(primal, shadow)" if width == 1 else f"BatchDuplicated(primal, ({width} shadows))"
        call.wrong(rule, f"returned {kind_of(out)} where {due} was due: the config needs both")
    if primal:
        return out, None
    if not shadow:
        call.wrong(rule, f"returned {kind_of(out)} where None was due: the config needs neither primal nor shadow")
    # Nobody looks at the primal: its shadow stands in for it, which has its shape.
    if width == 1:
        return out, [out]
    if type(out) is not tuple or len(out) != width:
        call.wrong(rule, f"returned {kind_of(out)} where a tuple of {width} shadows was due")
    return out[0], list(out)


cdef object by_lanes(Call call, object rule, object ret, tuple taken):
    """A rule that knows no batches, lane by lane, from the same memory each time."""
    cdef list before = [], lanes = []
    cdef Part leaf
    cdef int lane
    cdef object kept = call.kept()
    primal = None
    for leaf in call.arrays:
        if writable(leaf):
            before.append((leaf.value, copy_of(leaf.value)))
    for lane in range(call.ctx.width):
        if lane:
            for memory, copy in before:
                memory[...] = copy
            if kept is not None:
                run_plain(kept.restore, ())
        out = one_push(call, rule, ret, taken, lane, 1)
        if out is NotImplemented:
            return out
        if lane == 0:
            primal = out[0]
        if out[1] is not None:
            lanes.append(out[1][0])
    if lanes and len(lanes) != call.ctx.width:
        call.wrong(rule, "returned a shadow in some lanes only")
    return primal, lanes or None


cdef int activate(Call call, tuple taken) except -1:
    """Memory that a rule took as Duplicated, and may have written active values into, is active from now on."""
    cdef Part part
    cdef Py_ssize_t i
    if call.own is not None and call.own.flexible and call.own_activity(False) is not Const:
        activate_part(call.own)
    for i in range(len(taken)):
        part = call.parts[i]
        if part.flexible and taken[i] is not Const:
            activate_part(part)
    return 0


cdef int activate_part(Part part) except -1:
    if part.kind == STRUCTURE:
        for leaf in part.leaves:
            activate_part(<Part>leaf)
    elif part.flexible:
        part.active = part.place.buf.active = True
    return 0


cdef list leaves_like(Call call, object rule, object rebuild, object shadow, str what, str whose):
    """The leaves of a shadow that a rule made, in the order of the structure that it belongs to."""
    try:
        return shadow_like(rebuild, shadow, what, whose, separate=False)[0].leaves
    except ActivityError as error:
        call.wrong(rule, f"does not fit: {error}")


cdef object wrap_forward(Call call, object rule, object primal, object lanes):
    """The result of a forward rule as a value of the context."""
    cdef ForwardContext ctx = <ForwardContext>call.ctx
    cdef TrackedArray view
    cdef int lane
    cdef Part home
    if PyFloat_CheckExact(primal) and lanes is not None and ctx.width == 1 and PyFloat_CheckExact((<list>lanes)[0]):
        return ctx.result(primal, lanes)
    call.check_level(rule, primal)
    if is_structure(primal):
        leaves, rebuild = flatten(primal)
        parts = [leaves_like(call, rule, rebuild, t, "the shadow", "the primal") for t in lanes] if lanes is not None else []
        return rebuild([wrap_forward(call, rule, v, [p[i] for p in parts] or None) for i, v in enumerate(leaves)])
    if not is_leaf(primal):
        if lanes is not None and any([is_leaf(t) and np.any(plain_value(t)) for t in lanes]):
            call.wrong(rule, f"returned a shadow for {kind_of(primal)}, which has no derivative")
        return primal
    if lanes is None:
        return call.inactive(primal)
    for t in lanes:
        call.check_level(rule, t)
        if not isinstance(t, NUMBERS) or np.shape(t) != np.shape(primal):
            call.wrong(rule, f"returned {kind_of(t)} as the shadow of {kind_of(primal)}")
    home = call.home_of(primal)
    if home is None:
        return ctx.result(primal, lanes)
    view = view_in(home, primal)
    if view.place.buf.active or any([np.any(plain_value(t)) for t in lanes]):
        check_storable(view)
        ensure_lanes(ctx, view.place.buf, ctx.width)
        view.place.buf.active = True
        for lane in range(ctx.width):
            lane_of(view.place, lane)[...] = lanes[lane]
    return view


# ---- reverse --------------------------------------------------------------------------------------------------------

cdef double[2] NAN_DOUBLES = [NAN, NAN]
cdef float NAN_FLOAT = NAN


cdef object no_values(Part part):
    """What `augmented_primal` sees in the place of a shadow: NaN everywhere, and no way to write."""
    cdef npy_intp[64] strides
    cdef int i, typenum
    cdef void* data
    cdef ndarray like
    if part.kind == STRUCTURE:
        return part.rebuilt([no_values(<Part>p) for p in part.leaves])
    if part.kind != ARRAY:
        return NAN
    like = (<TrackedArray>part.tracked).arr
    typenum = PyArray_TYPE(like)
    if typenum == NPY_FLOAT:
        data = &NAN_FLOAT
    elif typenum == NPY_DOUBLE or typenum == NPY_CDOUBLE:
        data = NAN_DOUBLES
    else:
        return np.broadcast_to(np.array(NAN, like.dtype), part.place.shape_tuple())
    for i in range(PyArray_NDIM(like)):
        strides[i] = 0
    return PyArray_NewFromDescr(&PyArray_Type, DescrFromType(typenum), PyArray_NDIM(like), PyArray_DIMS(like), strides,
                                data, 0, NULL)


cdef object record(Call call):
    cdef Tape tape = <Tape>call.ctx
    cdef tuple returns = with_const(call, REVERSE_RETURNS if tape.width == 1 else BATCH_REVERSE_RETURNS)
    cdef bint lanewise = False
    found = call.pick(AUGMENTED, call.own_activity(False), returns, call.activities(False))
    if not found and tape.width > 1:
        lanewise = True
        found = call.pick(AUGMENTED, call.own_activity(True), with_const(call, REVERSE_RETURNS), call.activities(True))
    for rule, ret, taken in found:
        out = augment(call, rule, ret, taken, 1 if lanewise else tape.width)
        if out is not NotImplemented:
            return out
    out = call.easy()
    if out is not THROUGH or found or not (call.rules.rules[AUGMENTED] or call.rules.rules[REVERSE]):
        return out
    return unmatched(call, AUGMENTED, returns)


cdef object no_shadows(Part part, object kind, int width):
    """The shadows of an argument as augmented_primal sees them."""
    if kind is Const or kind is Active:
        return None
    if kind is Duplicated:
        return no_values(part)
    return by_lane(kind, [no_values(part) for _ in range(width)])


cdef object augment(Call call, object rule, object ret, tuple taken, int width):
    """Runs an augmented_primal rule and puts its node on the tape; NotImplemented where it declines."""
    cdef Tape tape = <Tape>call.ctx
    cdef list arguments = [], saved, seen = []
    cdef Part part
    cdef Ruled node
    cdef Py_ssize_t i
    cdef Config config = new_config(tape, width, call.needs_primal, ret is not Const and ret is not Active,
                                    call.overwritten())
    own = Const
    if call.reads_only:
        refer(tape, call)   # before the rule looks: it may keep what it is given
    arguments.append(config)
    if call.own is None:
        arguments.append(call.constant)
    else:
        own = call.own_activity(width == 1)
        arguments.append(annotation(own, call.own.val(False), no_shadows(call.own, own, width)))
    arguments.append(ret)
    for i in range(len(taken)):
        part = call.parts[i]
        val, dval = part.val(call.reads_only), no_shadows(part, taken[i], width)
        arguments.append(annotation(taken[i], val, dval))
        seen.append(val)
        seen.append(dval)
    saved = saved_memory(tape, call)
    out = call.run(rule, arguments)
    if out is NotImplemented:
        return out
    if type(out) is not AugmentedReturn:
        call.wrong(rule, f"returned {kind_of(out)}; it must return AugmentedReturn(primal, shadow, tape)")
    for i in range(len(taken)):
        call.untouched(rule, arguments[3 + i], seen[2 * i], seen[2 * i + 1], i + 1)
    log_writes(tape, saved)
    activate(call, taken)
    node = Ruled.__new__(Ruled)
    node.call = call
    node.config = config
    node.taken = taken
    node.own = own
    primal, node.shadow, node.kept = <tuple>out
    if not call.reads_only:
        refer(tape, call)
    result = wrap_reverse(call, rule, primal, node, ret)
    node.pick(tape.width)
    tape.add_node(node)
    call.forget()
    return result


cdef int refer(Tape tape, Call call) except -1:
    """The sweep will show these arguments to the rule: later writes are logged, captured arrays kept as they are."""
    cdef Part part
    for part in call.arrays:
        tape.refer_tracked(part.tracked)
    return keep_captured(tape, call.parts if call.own is None else [call.own, *call.parts])


cdef int keep_captured(Tape tape, list parts) except -1:
    """Plain arrays that the reverse rule will see must stay what they are."""
    cdef Part part
    for part in parts:
        if part.kind == PLAIN and type(part.value) is ndarray:
            part.value = tape.guard(part.value)
        elif part.kind == STRUCTURE:
            keep_captured(tape, part.leaves)
    return 0


cdef object wrap_reverse(Call call, object rule, object primal, Ruled node, object ret):
    """The result as a value of the tape; the node learns where its adjoints are."""
    cdef Part part, leaf
    cdef bint numbers = False, arrays = False
    if isinstance(primal, Annotation):
        call.wrong(rule, f"returned {type(primal).__name__} as the primal: return the value itself, "
                         "AugmentedReturn(value, shadow, tape)")
    if primal is None:
        if call.needs_primal and ret is not Const and (rule.demands(ret) or returns_something(call)):
            call.wrong(rule, "returned no primal, which the config needs: AugmentedReturn(primal, shadow, tape), with "
                             "what the function returns as its primal")
        if call.needs_primal or call.returned is Const:
            node.result = Part.__new__(Part)
            node.result.activity = Const
            return None
        primal = NAN     # nobody will look at it
    call.check_level(rule, primal)
    if PyFloat_CheckExact(primal) or is_float64(primal) or is_leaf(primal):
        part = result_leaf(call, primal, node)
        result = part.tracked
    elif is_structure(primal):
        leaves, rebuild = flatten(primal)
        part = Part.__new__(Part)
        part.kind = STRUCTURE
        part.leaves = [result_leaf(call, v, node) for v in leaves]
        part.rebuild = rebuild
        result = rebuild([(<Part>p).tracked for p in part.leaves])
    else:
        if not rule.says_const:
            check_derivable(call, rule, primal)
        part = Part.__new__(Part)
        part.value = result = primal
    for leaf in part.leaves if part.kind == STRUCTURE else (part,):
        numbers = numbers or (leaf.active and leaf.kind == NUMBER)
        arrays = arrays or (leaf.active and leaf.kind == ARRAY)
        leaf.tracked = None
    part.activity = (MixedDuplicated if numbers else Duplicated) if arrays else Active if numbers else Const
    node.result = part
    activity = part.activity if node.config.width == 1 else batched(part.activity)
    if activity is not ret and not rule.accepts(activity):
        call.wrong(rule, f"takes a return of activity {ret.__name__}, but the primal that it returned, "
                         f"{kind_of(primal)}, is {activity.__name__}: hint RT: type[{activity.__name__}], or leave "
                         "the hint out")
    return result


cdef bint returns_something(Call call) except -1:
    """Whether a function cannot but return its result: it was asked for one, or has nothing to write it into."""
    cdef Part part
    if call.returned is not None and call.returned is not Const:
        return True
    for part in call.arrays:
        if writable(part):
            return False
    for part in call.parts:
        if type(part.value) is ndarray or part.kind == STRUCTURE:
            return False
    return call.own is None and True not in call.overwritten()


cdef int check_derivable(Call call, object rule, object primal) except -1:
    """A primal that has no derivative, where the function most likely returns one that has. Integers of NumPy pass:
    they come of functions such as argmax."""
    if type(primal) is int or isinstance(plain_value(primal), ndarray) and plain_value(primal).dtype.hasobject:
        what = "an int" if type(primal) is int else "an array of objects"
        call.wrong(rule, f"returned {what} as the primal, which has no derivative: return floats. A function that does "
                         "return an int is cyad.inactive, or its rule has the hint RT: type[Const]")
    return 0


cdef Part result_leaf(Call call, object value, Ruled node):
    cdef Part leaf, home
    if call.ctx.outer is None and (PyFloat_CheckExact(value) or is_float64(value)):
        leaf = Part.__new__(Part)
        leaf.kind = NUMBER
        leaf.active = True
        leaf.value = value
        leaf.tracked = (<Tape>call.ctx).scalar(value, True)
        leaf.slot = (<Adjoint>leaf.tracked).slot
        return leaf
    home = call.home_of(value)
    if home is not None:
        return leaf_of(call.ctx, view_in(home, value))
    leaf = leaf_of(call.ctx, (<Tape>call.ctx).result(value, True, [], True))
    if leaf.place is not None:
        if node.fresh is None:
            node.fresh = []
        node.fresh.append(leaf)
    return leaf


@cython.final
@cython.no_gc
cdef class Ruled(Node):
    """A call that a reverse rule stands for."""

    cdef Call call
    cdef Config config
    cdef tuple taken       # activities of the arguments, as the rule gets them
    cdef object own        # that of the function
    cdef object kept       # the rule's tape
    cdef object shadow     # that of the result, where the rule made one
    cdef Part result
    cdef list fresh        # arrays of the result in memory of their own
    cdef object rule
    cdef int width         # lanes of the sweep that the rule was found for
    cdef int lanes         # lanes that it takes at a time

    cdef int pick(self, int width) except -1:
        """Finds the reverse rule for a number of lanes; one that knows no batches serves them one by one."""
        cdef Call call = self.call
        cdef int several
        # Shadows that the rule made are as many as there were lanes when it made them.
        cdef bint together = width > 1 and (self.shadow is None or self.config.width == width)
        if self.width == width:
            return 0
        last = call.rules.last
        if last is not None and width == 1 and last[0] is self.taken and last[1] is self.result.activity and \
                self.config.width == 1 and call.own is None and last[3] == call.names:
            # The same call again, as in a loop.
            self.rule = last[2]
            self.width = self.lanes = 1
            return 0
        for several in range(together, -1, -1):
            taken, own, ret = self.taken, self.own, self.result.activity
            if several:
                taken, own, ret = tuple([batched(a) for a in taken]), batched(own), batched(ret)
            elif width > 1 or self.width > 1 or self.config.width > 1:
                taken, own = tuple([unbatched(a) for a in taken]), unbatched(own)
            found = call.pick(REVERSE, own, (ret,), taken)
            if found:
                self.rule = found[0][0]
                self.taken, self.own = taken, own
                self.width = width
                self.lanes = width if several else 1
                if width == 1 and call.own is None:
                    call.rules.last = (self.taken, ret, self.rule, call.names)
                return 0
        raise MissingRuleError(call.rules.unmatched(REVERSE, own, (ret,), taken, call.names))

    cdef int pullback(self, Recording tape) except -1:
        cdef Part leaf
        cdef int lane
        if self.arrived(tape):
            tape.hush()
            self.call.ctx = tape
            try:
                self.pick(tape.width)
                for lane in range(0, tape.width, self.lanes):
                    self.pull(tape, lane, self.lanes)
            finally:
                self.call.ctx = None
        if self.fresh is not None:
            for leaf in self.fresh:
                leaf.place.buf.drop_shadow()
        return 0

    cdef bint arrived(self, Recording tape) except -1:
        """Whether any adjoint can have reached the result or the memory of the arguments."""
        cdef Part leaf
        cdef int lane
        for leaf in self.result.leaves if self.result.kind == STRUCTURE else (self.result,):
            if leaf.active and leaf.place is not None:
                if leaf.place.buf.shadow is not NULL or leaf.place.buf.lanes is not None:
                    return True
            elif leaf.active:
                for lane in range(tape.width):
                    if tape.adjoints[<size_t>leaf.slot * tape.width + lane] != 0.0:
                        return True
        for leaf in self.call.arrays:
            if leaf.active and (leaf.place.buf.shadow is not NULL or leaf.place.buf.lanes is not None):
                return True
        return False

    cdef int pull(self, Recording tape, int first, int width) except -1:
        """One call of the reverse rule, for `width` lanes."""
        cdef Call call = self.call
        cdef list arguments = [], seen = [], private = []
        cdef Part part
        cdef Py_ssize_t i
        cdef int lane
        cdef Config config = self.config
        if config.width != width:
            config = new_config(tape, width, config.needs_primal, config.needs_shadow, config.overwritten)
        arguments.append(config)
        if call.own is None:
            arguments.append(call.constant)
        else:
            own = self.shadows(tape, call.own, self.own, first, width, private)
            arguments.append(annotation(self.own, call.own.val(True), own))
        arguments.append(self.cotangent(tape, first, width))
        arguments.append(self.kept)
        for i in range(len(self.taken)):
            part = call.parts[i]
            val, dval = part.val(True), self.shadows(tape, part, self.taken[i], first, width, private)
            arguments.append(annotation(self.taken[i], val, dval))
            seen.append(val)
            seen.append(dval)
        out = call.run(self.rule, arguments)
        for i in range(len(self.taken)):
            call.untouched(self.rule, arguments[4 + i], seen[2 * i], seen[2 * i + 1], i + 1)
        for leaf, lane, shadow in private:
            lend_lanes(tape, (<Part>leaf).place)
            add_to_lane(tape, (<Part>leaf).place, lane, shadow)
        self.take_entries(tape, out, first, width)
        for i in range(len(self.taken)):
            if self.taken[i] is MixedDuplicated or self.taken[i] is BatchMixedDuplicated:
                self.take_mixed(tape, <Part>call.parts[i], seen[2 * i + 1], first, width)
        if self.own is MixedDuplicated or self.own is BatchMixedDuplicated:
            self.take_mixed(tape, call.own, own, first, width)
        return 0

    cdef object shadows(self, Recording tape, Part part, object kind, int first, int width, list private):
        """The shadows of an argument as an annotation of that kind holds them."""
        cdef list lanes
        cdef int lane
        if kind is Const or kind is Active:
            return None
        if kind is Duplicated:
            return self.shadow_of(tape, part, first, private)
        lanes = []
        for lane in range(first, first + width):
            lanes.append(self.shadow_of(tape, part, lane, private))
        return by_lane(kind, lanes)

    cdef object shadow_of(self, Recording tape, Part part, int lane, list private):
        """The shadow in one lane: the memory itself, or some of its own where two indices name one element."""
        if part.kind == STRUCTURE:
            return part.rebuilt([self.shadow_of(tape, <Part>p, lane, private) for p in part.leaves])
        if part.kind != ARRAY or not part.active:
            return zero_like(part.value)
        lend_lanes(tape, part.place)
        if not part.place.overlaps:
            return lane_of(part.place, lane)
        shadow = np.zeros(part.place.shape_tuple(), plain_value(part.value).dtype)
        private.append((part, lane, shadow))
        return shadow

    cdef object adjoint(self, Recording tape, Part part, int lane):
        """The adjoint of the result in one lane."""
        if part.kind == STRUCTURE:
            return part.rebuilt([self.adjoint(tape, <Part>p, lane) for p in part.leaves])
        if not part.active:
            return zero_like(part.value)
        if part.place is None:
            return tape.adjoints[<size_t>part.slot * tape.width + lane] + 0.0
        if part.kind == ARRAY:
            lend_lanes(tape, part.place)
            return lane_of(part.place, lane)
        g = adjoint_of(tape, part.place, lane)
        return 0.0 if g is None else g

    cdef object cotangent(self, Recording tape, int first, int width):
        """`dret`: the adjoint of a number, the shadow of an array."""
        cdef list lanes = []
        cdef int lane
        kind = self.result.activity
        if kind is Active and width == 1:
            return annotation(Active, self.adjoint(tape, self.result, first), None)
        kind = kind if width == 1 else batched(kind)
        if kind is Const:
            return Const if self.rule.wants_class else annotation(Const, self.result.val(True), None)
        for lane in range(first, first + width):
            lanes.append(self.adjoint(tape, self.result, lane))
        if kind is Active:
            return annotation(Active, tuple(lanes), None)
        if self.shadow is not None:
            lanes = self.lend(lanes, first, width)
        return kind if self.rule.wants_class else annotation(kind, self.result.val(True), by_lane(kind, lanes))

    cdef list lend(self, list lanes, int first, int width):
        """Copies adjoints into the shadows that augmented_primal made for its result."""
        cdef list filled = []
        own = [self.shadow]
        if self.config.width > 1 and isinstance(self.shadow, tuple):
            own = list(self.shadow[first:first + width])
        if len(own) != width:
            self.call.wrong(self.rule, f"needs {width} shadows of the result; augmented_primal made {len(own)}")
        for mine, lane in zip(own, lanes):
            targets, rebuild = flatten(mine)
            sources = leaves_like(self.call, self.rule, rebuild, lane, "the result", "the shadow made by augmented_primal")
            if any([np.shape(t) != np.shape(s) for t, s in zip(targets, sources)]):
                self.call.wrong(self.rule, "got a shadow from augmented_primal that has not the shapes of the result")
            for i, (target, source) in enumerate(zip(targets, sources)):
                if isinstance(target, np.ndarray) and plain_value(target).flags.writeable:
                    target[...] = source
                else:
                    targets[i] = source   # a number, or a view of an argument, which has that one's shadow
            filled.append(rebuild(targets))
        return filled

    cdef int take_entries(self, Recording tape, object out, int first, int width) except -1:
        """Adds the derivatives that the rule returned for Active arguments."""
        cdef Call call = self.call
        cdef Py_ssize_t i
        cdef int lane
        if type(out) is not tuple or len(<tuple>out) != len(call.parts):
            got = f"a tuple of {len(out)}" if type(out) is tuple else kind_of(out)
            call.wrong(self.rule, f"returned {got}; it must return a tuple with one entry for each of the "
                                  f"{len(call.parts)} arguments: the derivative for Active ones, None for all others")
        for i in range(len(call.parts)):
            entry = (<tuple>out)[i]
            if self.taken[i] is not Active:
                if entry is not None:
                    call.wrong(self.rule, f"returned {kind_of(entry)} for argument {i + 1}, which is "
                                          f"{self.taken[i].__name__}: add its derivative to its shadow, and return "
                                          "None in its place")
                continue
            if entry is None:
                call.wrong(self.rule, f"returned None for argument {i + 1}, which is Active: return its derivative")
            if width == 1:
                self.add_number(tape, <Part>call.parts[i], first, entry, i)
                continue
            if type(entry) is not tuple or len(entry) != width:
                call.wrong(self.rule, f"returned {kind_of(entry)} for argument {i + 1}; for {width} lanes it is a "
                                      f"tuple of {width}")
            for lane in range(width):
                self.add_number(tape, <Part>call.parts[i], first + lane, entry[lane], i)
        return 0

    cdef int add_number(self, Recording tape, Part part, int lane, object c, Py_ssize_t i) except -1:
        if part.place is None and PyFloat_CheckExact(c):
            tape.adjoints[<size_t>part.slot * tape.width + lane] += PyFloat_AS_DOUBLE(c)
            return 0
        if not isinstance(c, NUMBERS) or np.ndim(c):
            self.call.wrong(self.rule, f"returned {kind_of(c)} for argument {i + 1}, which is a number")
        self.call.check_level(self.rule, c)
        if part.place is None:
            tape.adjoints[<size_t>part.slot * tape.width + lane] += float(np.real(c))
            return 0
        lend_lanes(tape, part.place)
        return add_to_lane(tape, part.place, lane, c[()] if isinstance(c, np.ndarray) else c)

    cdef int take_mixed(self, Recording tape, Part part, object dval, int first, int width) except -1:
        """The derivatives by numbers inside a structure, which the rule left in its Ref."""
        cdef Part leaf
        cdef int lane
        refs = dval if width > 1 else (dval,)
        for lane in range(width):
            shadow = refs[lane].value if part.method is None else refs[lane].value.__self__
            leaves = leaves_like(self.call, self.rule, part.rebuild, shadow, "the shadow in the Ref", "the argument")
            for leaf, c in zip(part.leaves, leaves):
                if leaf.active and leaf.kind == NUMBER:
                    self.add_number(tape, leaf, first + lane, c, 0)
        return 0
