"""A call that is recorded once and swept as often as wanted: what split mode, `vjp` and reverse Jacobians are made of.

The tape refers to memory that must not change between sweeps, so the call runs on copies of the arrays that it is given; what it
wrote into them is copied back when it has returned. Shadows exist during a sweep only, in whatever width it asks for.

Rejected: a call on the caller's own memory that is copied when the call is over. Structural rules keep primals in closures,
and those would go on reading the caller's.

Thread safety: a recording belongs to one thread at a time; two sweeps at once raise TapeError.
"""
from numpy cimport (
    NPY_DOUBLE, NPY_FLOAT, PyArray_DATA, PyArray_ISBEHAVED_RO, PyArray_ISCARRAY, PyArray_STRIDES, PyArray_TYPE, import_array,
    ndarray,
)

from cyad._adjoint cimport Tape, seed
from cyad._arguments cimport Argument, as_call, wrap_all, write_back
from cyad._context cimport TrackedArray, context_of, ensure_lanes, is_array, is_tracked, lane_of, plain_value, primal_at
from cyad._reverse cimport adjoint_value
from cyad._shadow cimport Buffer, View
from cyad.rules._kernels cimport copy_add

import numpy as np

from cyad._arguments import leaves_of_result
from cyad.activity import Active, Input
from cyad.errors import ActivityError

import_array()

cdef extern from "numpy/arrayobject.h":
    int PyArray_FillWithScalar(ndarray arr, object value) except -1


cdef class Pullback:
    """One recorded call: its value, and its transpose for any cotangents.

    ``Pullback(f, args, kwargs, named)``, with `named` the (name, annotation) pairs of `autodiff`: Input where a
    derivative is wanted (or Duplicated, whose shadow only says which arguments overlap likewise), Const elsewhere.
    """

    cdef Tape tape
    cdef list values       # the arguments as the function saw them
    cdef list arguments    # those of them that are arrays
    cdef list places       # their indices in values
    cdef list results      # leaves of what the function returned
    cdef list active       # which arguments have a derivative
    cdef list kinds        # the caller's values of numbers, for the dtype of their derivatives
    cdef readonly object rebuild_result   # what puts a result together (_structures.Rebuild)
    cdef readonly list leaves   # the results as plain values

    def __init__(self, f, args, dict kwargs, list named, bint strong=False, bint outlives=True):
        cdef Tape tape = Tape(f, strong)
        cdef Argument argument
        tape.outlives = outlives
        self.tape = tape
        try:
            self.values, self.arguments = wrap_all(tape, named, 1, True)
            positional, keywords = as_call(args, kwargs, named, self.values)
            try:
                result = tape.call(f, positional, keywords)
            finally:
                write_back(self.arguments)
            self.results, self.rebuild_result = leaves_of_result(result)
            self.leaves = [plain_leaf(tape, leaf) for leaf in self.results]
            self.rebuild_result.leaves = self.leaves   # others are held against plain values
        finally:
            tape.alive = False
            tape.unlock()
        tracked = [(<Argument>a).tracked for a in self.arguments]
        self.places = [next((k for k in range(len(tracked)) if tracked[k] is value), -1) for value in self.values]
        self.active = [isinstance(a, (Active, Input)) or hasattr(a, "dval") for _, a in named]
        self.kinds = [None if is_array(v) and not (<TrackedArray>v).boxed else a.val
                      for v, (_, a) in zip(self.values, named)]

    @property
    def primal(self):
        """What the function returned: plain arrays and numbers, copies of what the tape refers to."""
        return self.rebuild_result(self.leaves)

    def arrays(self):
        """The arguments that are arrays, where they stand among the arguments; None for others."""
        return [None if k < 0 else (<Argument>self.arguments[k]).given for k in self.places]

    @property
    def nbytes(self):
        """Bytes of the tape's records and constants."""
        return self.tape.nbytes

    def pull(self, list cotangents, int width, list entries=None, list into=None):
        """The cotangents of the arguments, a tuple of `width` for each; None for those that have no derivative.

        `cotangents` has, for each leaf of the result, a sequence of `width` arrays or numbers, or None for zero. `entries`
        has, for each argument that is an array, the cotangents of what it held after the call, or None for zero. `into` has, for an
        argument, an array of shape (width, *shape) that receives its cotangents.
        """
        cdef Tape tape = self.tape
        cdef Argument argument
        cdef Py_ssize_t i, k
        cdef int lane
        if entries is None:
            entries = [None] * len(self.values)
        tape.start_sweep(width)
        try:
            for i in range(len(self.values)):
                if self.active[i] and self.places[i] >= 0:
                    self.lend(self.arguments[self.places[i]], width, None if into is None else into[i])
            for i in range(len(self.values)):
                if entries[i] is not None and self.active[i] and self.places[i] >= 0:
                    argument = self.arguments[self.places[i]]
                    if not argument.tracked.place.buf.conflict:
                        for lane in range(width):
                            lane_of(argument.tracked.place, lane)[...] = entries[i][lane]
            for k in range(len(self.results)):
                if cotangents[k] is None or not tape.is_active(self.results[k]):
                    continue
                if not self.seed_block(self.results[k], cotangents[k], width):
                    for lane in range(width):
                        seed(tape, self.results[k], lane, fitting(self.leaves[k], cotangents[k][lane]))
            tape.run_sweep()
            return [self.cotangent_of(i, width, entries[i], None if into is None else into[i])
                    for i in range(len(self.values))]
        finally:
            for argument in self.arguments:
                argument.tracked.place.buf.borrowed_shadow = False
                argument.tracked.place.buf.drop_shadow()
            tape.end_sweep()

    cdef bint seed_block(self, object result, object block, int width) except -1:
        """Adds an array (width, *shape) of cotangents, all lanes at once; False where that takes ordinary NumPy calls."""
        cdef View place
        cdef ndarray seeds
        cdef bint assign = False
        if not is_array(result) or type(block) is not ndarray or not (<TrackedArray>result).plain:
            return False
        seeds = block
        place = (<TrackedArray>result).place
        if not (place.typenum == NPY_DOUBLE or place.typenum == NPY_FLOAT) or PyArray_TYPE(seeds) != place.typenum or \
                place.overlaps or not PyArray_ISBEHAVED_RO(seeds) or block.shape != (width, *place.shape_tuple()):
            return False
        if place.buf.shadow is NULL:
            assign = place.is_whole()
            self.tape.give_shadow(place.buf, not assign)
        copy_add(place.typenum == NPY_FLOAT, place.ndim, place.shape, <char*>PyArray_DATA(seeds),
                 PyArray_STRIDES(seeds) + 1, PyArray_STRIDES(seeds)[0], place.buf.shadow + place.offset, place.strides,
                 place.buf.lane_bytes, width, 1.0, assign)
        return True

    cdef int lend(self, Argument argument, int width, object into) except -1:
        """A zero shadow for an argument, in the memory of `into` where it fits."""
        cdef Buffer buf = argument.tracked.place.buf
        cdef ndarray memory
        if into is not None and buf.shadow is NULL and argument.tracked.plain and argument.tracked.place.is_whole() and \
                PyArray_ISCARRAY(argument.tracked.arr) and PyArray_ISCARRAY(<ndarray?>into) and \
                PyArray_TYPE(<ndarray>into) == PyArray_TYPE(argument.tracked.arr):
            memory = into
            PyArray_FillWithScalar(memory, 0.0)
            buf.shadow = <char*>PyArray_DATA(memory)
            buf.shadow_owner = memory
            buf.lane_bytes = buf.nbytes
        else:
            ensure_lanes(self.tape, buf, width)
        buf.borrowed_shadow = True
        return 0

    cdef object cotangent_of(self, Py_ssize_t i, int width, object entry, object into):
        cdef Argument argument
        cdef int lane
        if not self.active[i]:
            return None
        if self.places[i] < 0:
            return tuple([adjoint_value(self.tape, self.values[i], lane, self.kinds[i]) for lane in range(width)])
        argument = self.arguments[self.places[i]]
        lanes = [lane_of(argument.tracked.place, lane) for lane in range(width)]
        if entry is not None and argument.tracked.place.buf.conflict:
            lanes = [g + before for g, before in zip(lanes, entry)]
        if into is None:
            return tuple(lanes)
        if not (len(lanes) > 0 and type(lanes[0]) is ndarray and
                PyArray_DATA(<ndarray>lanes[0]) == PyArray_DATA(<ndarray?>into)):
            for lane in range(width):
                into[lane] = lanes[lane]
        return into


cdef object plain_leaf(Tape tape, object leaf):
    """A leaf of the result as the caller gets it: a copy where the tape refers to its memory."""
    value = primal_at(tape, leaf) if is_tracked(leaf) and context_of(leaf) is tape else leaf
    if is_array(leaf) and context_of(leaf) is tape and not (<TrackedArray>leaf).boxed:
        return value.copy()
    return value


cdef object fitting(object leaf, object cotangent):
    """A cotangent of the shape of what it belongs to, or broadcast to it; ActivityError for anything else."""
    shape = np.shape(plain_value(leaf))
    own = np.shape(plain_value(cotangent))
    if own == shape:
        return cotangent
    if len(shape) == 0 and own == (1,):
        return cotangent[0]
    if len(own) == 0:
        return cotangent + np.zeros(shape, np.result_type(plain_value(leaf)))
    raise ActivityError(f"a cotangent of shape {own} was given for a result of shape {shape}; they must be the same")
