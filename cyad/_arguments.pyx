"""The arguments of a differentiated call: from annotated values to tracked ones, and back.

Arrays that overlap in memory become views of one buffer. The caller's own shadow is worked on where its geometry is that of the array;
otherwise a private one is, and copied back at the end.
"""
from numpy cimport (
    NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE, PyArray_CHKFLAGS, PyArray_DATA, PyArray_DIMS, PyArray_ISBEHAVED,
    PyArray_ISBEHAVED_RO, PyArray_NDIM, PyArray_SIZE, PyArray_STRIDES, PyArray_TYPE, import_array, ndarray,
)
from cpython.ref cimport PyObject

from cyad._context cimport (
    Context, Py_EnterRecursiveCall, Py_LeaveRecursiveCall, TrackedArray, buffer_over, context_of, ensure_lanes, is_array,
    is_tracked, lane_of, leaves_of, own_copy, plain_value, primal_at, settled, wrap_new, wrap_over, wrap_view,
)
from cyad._redirect cimport current, register_fresh_handler
from cyad._shadow cimport Buffer, extent_of, view_of

from collections.abc import Iterator
from types import FunctionType, MethodType

import numpy as np

from cyad._redirect import redirect_operators
from cyad._structures import Constant, flatten, is_structure, release
from cyad._tracked import Flat
from cyad.activity import Active, Annotation, Input
from cyad.errors import ActivityError

import_array()

cdef Py_ssize_t SEARCH_LIMIT = 100_000   # steps in the search for an element that two arrays share

cdef extern from "numpy/arrayobject.h":
    ctypedef int NPY_ORDER
    NPY_ORDER NPY_CORDER
    NPY_ORDER NPY_KEEPORDER
    ndarray PyArray_NewCopy(ndarray arr, NPY_ORDER order)


cdef bint overlaps_itself(ndarray arr) except -1:
    """Whether two indices name one element: broadcast axes, sliding windows."""
    return not PyArray_CHKFLAGS(arr, NPY_ARRAY_C_CONTIGUOUS) and view_of(buffer_over(arr), arr).overlaps


cdef class Argument:
    """An array argument while its call runs: the tracked array, and the caller's shadows if they must be copied back."""

    @property
    def array(self):
        return self.tracked


def wrap_arguments(Context ctx, list arrays, list shadows, list names, bint keep=False):
    """Tracked arrays over the caller's arrays, as a list of `Argument`; over copies if they are to be kept.

    `shadows` has a tuple of W arrays for each array, None for a Const one, an empty one for an Input. Arrays that overlap
    in memory become views of one buffer if their shadows overlap likewise; otherwise such memory may only be read. So may
    arrays that share a shadow but no memory: in reverse mode both add to it.
    """
    cdef list out = []
    cdef list shared
    cdef Argument argument, other
    cdef ndarray arr
    cdef Py_ssize_t i
    cdef list group
    for i in range(len(arrays)):
        source = arrays[i]
        arr = (<TrackedArray>source).arr if is_array(source) else source
        argument = Argument.__new__(Argument)
        argument.shadows = shadows[i]
        if argument.shadows is not None and not PyArray_ISBEHAVED_RO(arr):
            raise ActivityError(f"{names[i]} is byte-swapped or misaligned; pass a copy: .astype(np.{arr.dtype.type.__name__})")
        argument.given = arr
        argument.source = source
        if overlaps_itself(arr):
            # Elements share memory, but each has a derivative of its own.
            if PyArray_CHKFLAGS(arr, NPY_ARRAY_WRITEABLE):
                raise ActivityError(f"{names[i]} overlaps itself in memory; pass a copy")
            if is_array(source):
                source = source.copy()
                arr = (<TrackedArray>source).arr
            else:
                arr = PyArray_NewCopy(arr, NPY_CORDER)
            arr.setflags(write=False)
        argument.tracked = ctx.new_array()
        argument.tracked.given = True
        argument.tracked.arr = arr
        argument.tracked.plain = ctx.outer is None
        argument.tracked.prim = arr if ctx.outer is None else source if is_array(source) else wrap_captured(ctx.outer, arr)
        out.append(argument)
    shared = check_shadows(out, names)
    for i in range(len(out)):
        argument = out[i]
        if argument.tracked.place is not None:
            continue
        group = reachable(out, i)
        if len(group) == 1 or ctx.outer is None and map_alike(group) or not (keep and ctx.outer is not None) and all([
                (<Argument>other).shadows is None and (<Argument>other).given is (<Argument>other).tracked.arr
                for other in group]):
            own_or_share(ctx, group, names[i], any([(a in group) != (b in group) for a, b in shared]), keep)
            continue
        for other in group:
            own_or_share(ctx, [other], names[out.index(other)], True, keep)
    return out


cdef list check_shadows(list arguments, list names):
    """The pairs of arguments whose shadows share memory; ActivityError for shadows that cannot be worked on."""
    cdef list places = [], shared = []
    cdef Argument a, b
    cdef Py_ssize_t i, k, lane
    for i in range(len(arguments)):
        a = arguments[i]
        places.append((*extent_of(a.given), len(places), a, -1, a.given))
        if a.shadows is None:
            continue
        for lane in range(len(a.shadows)):
            shadow = plain_value(a.shadows[lane])
            if not PyArray_CHKFLAGS(<ndarray?>shadow, NPY_ARRAY_WRITEABLE):
                raise ActivityError(f"the shadow of {names[i]} is read-only, but derivatives are written into it; "
                                    "pass a copy")
            places.append((*extent_of(shadow), len(places), a, lane, shadow))
    if len(places) == 2 and (places[0][1] <= places[1][0] or places[1][1] <= places[0][0]):
        return shared   # the usual case: one array and its shadow
    places.sort()
    for i in range(len(places)):
        for k in range(i + 1, len(places)):
            if places[k][0] >= places[i][1]:
                break
            a, one, b, other = places[i][3], places[i][4], places[k][3], places[k][4]
            if one < 0 and other < 0 or not share_memory(places[i][5], places[k][5]):
                continue
            if one < 0 or other < 0:
                raise ActivityError(f"the shadow of {names[arguments.index(b if one < 0 else a)]} is memory of "
                                    f"{names[arguments.index(a if one < 0 else b)]}; a shadow needs memory of its own")
            if a is b:
                raise ActivityError(f"lanes {min(one, other)} and {max(one, other)} of the shadow of "
                                    f"{names[arguments.index(a)]} share memory")
            shared.append((a, b))
    return shared


cdef object wrap_captured(Context ctx, ndarray arr):
    """A plain array as the outer differentiation sees it: memory of the caller's, inactive."""
    return wrap_over(ctx, arr if ctx.outer is None else wrap_captured(ctx.outer, arr))


cdef list reachable(list arguments, Py_ssize_t first):
    """The arguments whose memory overlaps, directly or through others, that of the first."""
    cdef list group = [arguments[first]]
    cdef Argument a, b
    cdef bint grown = True
    while grown:
        grown = False
        for b in arguments:
            if b in group:
                continue
            for a in group:
                if share_memory(a.given, b.given):
                    group.append(b)
                    grown = True
                    break
    return group


cdef bint share_memory(ndarray a, ndarray b) except -1:
    """Whether two arrays share an element; arrays that merely interleave (columns of a matrix) do not."""
    cdef Py_ssize_t low, high, first, last
    low, high = extent_of(a)
    first, last = extent_of(b)
    if last <= low or high <= first:
        return False
    try:
        return np.shares_memory(a, b, max_work=SEARCH_LIMIT)
    except np.exceptions.TooHardError:
        return True


cdef bint map_alike(list group) except -1:
    """Whether the shadows of overlapping arrays overlap as the arrays do."""
    cdef Argument first = group[0], a
    for a in group:
        if a.given is not a.tracked.arr:
            return False   # a copy: what is written into the others does not reach it
        if not a.shadows or not first.shadows or len(a.shadows) != len(first.shadows):
            return False
        if same_place(a.given, first.given) and all([same_place(d, e) for d, e in zip(a.shadows, first.shadows)]):
            continue
        for lane in range(len(a.shadows)):
            if not same_strides(a.tracked.arr, a.shadows[lane]):
                return False
            if distance(a, lane) != distance(first, lane):
                return False
    return True


cdef bint same_place(ndarray a, ndarray b) noexcept:
    return PyArray_DATA(a) == PyArray_DATA(b) and same_strides(a, b) and PyArray_SIZE(a) == PyArray_SIZE(b)


cdef bint same_strides(ndarray a, ndarray b) noexcept:
    cdef int i
    if PyArray_NDIM(a) != PyArray_NDIM(b):
        return False
    for i in range(PyArray_NDIM(a)):
        if PyArray_STRIDES(a)[i] != PyArray_STRIDES(b)[i] and PyArray_DIMS(a)[i] > 1:
            return False
    return True


cdef Py_ssize_t distance(Argument a, Py_ssize_t lane) except? -1:
    cdef ndarray shadow = a.shadows[lane]
    cdef ndarray arr = a.tracked.arr
    return <char*>PyArray_DATA(shadow) - <char*>PyArray_DATA(arr)


cdef int own_or_share(Context ctx, list group, str name, bint conflict, bint keep) except -1:
    return keep_buffer(ctx, group, name, conflict) if keep else share_buffer(ctx, group, name, conflict)


cdef int keep_buffer(Context ctx, list group, str name, bint conflict) except -1:
    """A buffer of our own for a group of arguments, with their values: what a recording refers to must not change after the call.

    It has no shadow between sweeps.
    """
    cdef Argument a, first = group[0]
    cdef Buffer buf
    cdef Py_ssize_t low, high, start, stop
    cdef object given
    if len(group) == 1:
        if is_array(first.tracked.prim):
            prim = first.tracked.prim.copy()
            first.tracked.arr = (<TrackedArray>prim).arr
        else:
            prim = first.tracked.arr = PyArray_NewCopy(first.tracked.arr, NPY_KEEPORDER)
        first.tracked.prim = prim
        buf = buffer_over(first.tracked.arr)
    else:
        low, high = extent_of(first.tracked.arr)
        for a in group[1:]:
            start, stop = extent_of(a.tracked.arr)
            low, high = min(low, start), max(high, stop)
        block = np.empty(high - low, np.uint8)
        for a in group:
            start, stop = extent_of(a.given)
            given = <object>a.given
            a.tracked.arr = np.ndarray(given.shape, given.dtype, block, <Py_ssize_t>PyArray_DATA(a.given) - low,
                                       given.strides)
            a.tracked.arr[...] = a.given
            a.tracked.prim = a.tracked.arr
        buf = Buffer.__new__(Buffer)
        buf.data = <char*>PyArray_DATA(<ndarray>block)
        buf.nbytes = high - low
        buf.typenum = PyArray_TYPE(first.tracked.arr)
        buf.owner = block
    buf.name = name
    buf.conflict = conflict
    buf.active = first.shadows is not None
    buf.constant = not buf.active
    for a in group:
        a.tracked.place = view_of(buf, a.tracked.arr)
        if not PyArray_CHKFLAGS(a.given, NPY_ARRAY_WRITEABLE):
            a.tracked.arr.setflags(write=False)
    return 0


cdef int write_back(list arguments) except -1:
    """What the function wrote into the copies, into the caller's arrays."""
    cdef Argument a
    for a in arguments:
        if a.tracked.place.buf.written or a.tracked.place.buf.exposed:
            if PyArray_CHKFLAGS(a.tracked.arr, NPY_ARRAY_WRITEABLE):
                a.source[...] = a.tracked.prim
    return 0


cdef int share_buffer(Context ctx, list group, str name, bint conflict) except -1:
    """One buffer for a group of arguments; the caller's own shadow where its geometry allows, a private one otherwise.

    `conflict` says that memory or shadows have elements in common with those of other buffers.
    """
    cdef Buffer buf = Buffer.__new__(Buffer)
    cdef Argument a, first = group[0]
    cdef Py_ssize_t low, high, start, stop, offset
    cdef int lane
    cdef ndarray shadow
    low, high = extent_of(first.tracked.arr)
    for a in group[1:]:
        start, stop = extent_of(a.tracked.arr)
        low, high = min(low, start), max(high, stop)
    buf.data = <char*>low
    buf.nbytes = high - low
    buf.typenum = PyArray_TYPE(first.tracked.arr)
    buf.owner = first.tracked.arr if len(group) == 1 else [(<Argument>a).tracked.arr for a in group]
    buf.name = name
    for a in group:
        a.tracked.place = view_of(buf, a.tracked.arr)
    buf.conflict = conflict
    if first.shadows is None:
        buf.constant = True
        return 0
    buf.active = True
    buf.borrowed_shadow = True
    if ctx.outer is None and len(first.shadows) == 1 and same_strides(first.tracked.arr, first.shadows[0]) and (
            PyArray_ISBEHAVED(<ndarray>first.shadows[0])) and first.tracked.place.size:
        shadow = first.shadows[0]
        offset = first.tracked.place.offset
        buf.shadow = <char*>PyArray_DATA(shadow) - offset
        buf.shadow_owner = [(<Argument>a).shadows[0] for a in group]
        buf.lane_bytes = buf.nbytes
        return 0
    ensure_lanes(ctx, buf, ctx.width)
    for a in group:
        a.private = True
        for lane in range(ctx.width):
            if not (buf.conflict and ctx.backward):   # only added to: the sums go to the caller's in the end
                lane_of(a.tracked.place, lane)[...] = a.shadows[lane]
    return 0


cdef tuple wrap_all(Context ctx, list named, int width, bint keep):
    """The values to call a function with, for its annotated arguments; and the `Argument`s among them."""
    cdef list values = [], arrays = [], shadows = [], names = [], places = []
    cdef Context own
    for i, (name, a) in enumerate(named):
        val = settled(a.val) if is_tracked(a.val) else a.val
        own = context_of(val)
        if own is not None and ctx.outer is None:
            # A value made by hand, outside any call: its context is the outer one of this call.
            ctx.outer = own
            ctx.level = own.level + 1
    ctx.width = width
    for i, (name, a) in enumerate(named):
        val = settled(a.val) if is_tracked(a.val) else a.val
        dval = getattr(a, "dval", None)
        values.append(val)
        if is_array(val) and not (<TrackedArray>val).boxed or type(val) is ndarray:
            if dval is None and type(a) is not Input and (val.dtype.kind not in "fc" or (type(val) is ndarray and not PyArray_ISBEHAVED_RO(val))):
                continue
            arrays.append(val)
            shadows.append(() if type(a) is Input else None if dval is None else dval if a.batched else (dval,))
            names.append(name)
            places.append(i)
        elif isinstance(a, (Active, Input)):
            values[i] = ctx.variable_scalar(val, None)
        elif dval is not None:
            if not is_tracked(val) and not isinstance(val, (float, complex, np.number)):
                raise ActivityError(f"{name}: a {type(val).__name__} is no array and no float; annotate its parts")
            values[i] = ctx.variable_scalar(val, dval if a.batched else (dval,))
    arguments = wrap_arguments(ctx, arrays, shadows, names, keep) if arrays else []
    for i, argument in zip(places, arguments):
        values[i] = (<Argument>argument).tracked
    return values, arguments


cdef tuple as_call(object args, dict kwargs, list named, list values):
    """Positional and keyword arguments, with wrapped values in the place of annotations."""
    cdef Py_ssize_t n = len(args)
    keywords = kwargs
    if kwargs:
        keywords = dict(kwargs)
        annotated = [key for key, v in kwargs.items() if isinstance(v, Annotation)]
        for key, value in zip(annotated, values[n:]):
            keywords[key] = value
    return tuple(values[:n]), keywords


cdef object unwrap(Context ctx, object value):
    """A result of the function as the caller gets it: plain numbers and arrays, in the same structure."""
    if is_tracked(value):
        if context_of(value) is ctx:
            return primal_at(ctx, value)
        return value
    if type(value) in (list, dict) or isinstance(value, tuple):
        try:
            return unwrap_entries(ctx, value)
        except RecursionError:
            pass   # it holds itself
    if is_structure(value):
        leaves, rebuild = leaves_of_result(value)
        plain = [unwrap(ctx, leaf) for leaf in leaves]
        if any([p is not leaf for p, leaf in zip(plain, leaves)]):
            return rebuild(plain)
    elif not isinstance(value, (float, int)):
        refuse_hidden(value)
    return value


cdef object unwrap_entries(Context ctx, object value):
    """The usual containers, without a walk that remembers where it was."""
    if is_tracked(value) or not (type(value) in (list, dict) or isinstance(value, tuple)):
        return unwrap(ctx, value)
    Py_EnterRecursiveCall(" in a result that is nested too deeply")
    try:
        if type(value) is dict:
            return {k: unwrap_entries(ctx, v) for k, v in value.items()}
        parts = [unwrap_entries(ctx, v) for v in value]
        return type(value)(parts) if type(value) in (list, tuple) else type(value)(*parts)
    finally:
        Py_LeaveRecursiveCall()


_HIDING = (set, frozenset, type({}.keys()), type({}.values()), type({}.items()))


def leaves_of_result(result):
    """The leaves of what a function returned, and what puts it together; ActivityError where it keeps others out of sight."""
    leaves, rebuild = flatten(result)
    for part in (rebuild.tree, *[p for node in rebuild.nodes for _, p in (*node.items, *node.attributes)]):
        if isinstance(part, Constant):
            refuse_hidden(part.value)
    for node in rebuild.nodes:
        refuse_hidden(node.value)
    return leaves, rebuild


cdef int refuse_hidden(object value) except -1:
    """A result from which tracked values would come out after the end of their call."""
    if isinstance(value, ndarray):
        if value.dtype.hasobject and leaves_of(tuple(value.flat), {}):
            raise ActivityError("an array of objects that carry derivatives was returned; return an array of floats (np.array "
                                "without dtype=object, or np.stack), or a list")
    elif isinstance(value, _HIDING):
        if leaves_of(tuple(value), {}):
            raise ActivityError(f"a {type(value).__name__} of values that carry derivatives was returned; return a list")
    elif type(value) is Flat:
        raise ActivityError("x.flat was returned, an iterator over an array that carries a derivative; return x.ravel()")
    elif isinstance(value, Iterator) and type(value).__module__ in ("builtins", "itertools"):
        raise ActivityError(f"a {type(value).__name__} was returned, which computes when the differentiated call has ended; "
                            "return a list")
    return 0


_STAND_INS = set()   # classes of our own whose methods act for a user's function, their attribute acts_for


def stands_in(cls):
    """Class decorator: what a differentiated method of `cls` may have left state in is what it `acts_for`."""
    _STAND_INS.add(cls)
    return cls


def release_state(Context ctx, f, bint copies):
    """What the function left in the object that it belongs to, or in objects that it was given, is plain from now on.

    `copies`: not the memory of a recording, which must not change.
    """
    while type(f) is MethodType and type(f.__self__) in _STAND_INS:
        f = f.__self__.acts_for
    if type(f) is FunctionType:
        return

    def change(value):
        if not is_tracked(value) or context_of(value) is not ctx:
            return value
        return plain_copy_of(ctx, value) if copies else unwrap(ctx, value)

    release(f, change, set())


def plain_result(value):
    """A value of the current call as the caller may keep it: what is tracked is copied, so are structures that hold any."""
    cdef PyObject* pointer = current()
    cdef Context ctx
    if pointer is NULL:
        return value
    ctx = <Context>pointer
    leaves, rebuild = flatten(value)
    if not any([is_tracked(leaf) and context_of(leaf) is ctx for leaf in leaves]):
        return value
    return rebuild([plain_copy_of(ctx, leaf) for leaf in leaves])


cdef object plain_copy_of(Context ctx, object leaf):
    if not is_tracked(leaf) or context_of(leaf) is not ctx:
        return leaf
    plain = unwrap(ctx, leaf)
    if type(plain) is ndarray:
        return own_copy(plain)   # its method copy makes tracked arrays during a call
    return plain.copy() if is_array(plain) and not (<TrackedArray>plain).boxed else plain


def copy_shadows_back(list arguments):
    """Private shadows into the caller's."""
    cdef Argument a
    cdef int lane
    for a in arguments:
        if a.private:
            for lane in range(len(a.shadows)):
                if not a.tracked.place.buf.conflict:
                    a.shadows[lane][...] = lane_of(a.tracked.place, lane)
                elif a.tracked.ctx.backward:
                    a.shadows[lane][...] += lane_of(a.tracked.place, lane)


def track(plain):
    """A fresh float array as a tracked one of the current context, if there is one; anything else as it is.

    Only memory that nobody else sees may be tracked: views of existing arrays stay plain.
    """
    cdef PyObject* ctx = current()
    if ctx is NULL or type(plain) is not ndarray or plain.base is not None:
        return plain
    if (<ndarray>plain).dtype.kind not in "fc" or not PyArray_ISBEHAVED(<ndarray>plain) or not plain.flags.owndata:
        return plain
    return wrap_new(<Context>ctx, plain)


cdef object track_fresh(object plain):
    """The same for an array that `_redirect` has found fresh: it owns its memory, or is the one view of what does."""
    cdef PyObject* pointer = current()
    cdef Context ctx = <Context>pointer
    cdef ndarray base = plain.base
    return wrap_new(ctx, plain) if base is None else view_like(wrap_new(ctx, base), plain)


cdef TrackedArray view_like(TrackedArray whole, ndarray plain):
    return wrap_view(whole, plain if whole.plain else view_like(whole.prim, plain))


def install_fresh():
    redirect_operators()
    register_fresh_handler(track_fresh)
