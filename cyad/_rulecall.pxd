from libc.stdint cimport uint32_t
from numpy cimport ndarray

from cyad._adjoint cimport Tape
from cyad._context cimport Context
from cyad._shadow cimport View

cdef enum:
    PLAIN = 0     # no value of this context
    NUMBER = 1
    ARRAY = 2
    STRUCTURE = 3

cdef class Config:
    cdef readonly int width
    cdef readonly object mode
    cdef readonly bint needs_primal
    cdef readonly bint needs_shadow
    cdef readonly tuple overwritten
    cdef readonly bint strong_zero

cdef class Part:
    cdef int kind
    cdef bint active
    cdef bint flexible      # holds no active value, but might take one
    cdef uint32_t slot      # of a number in reverse mode
    cdef object value       # as the next level out sees it
    cdef object tracked
    cdef View place         # of arrays, and of numbers that do not fit a double
    cdef list leaves        # of a structure
    cdef object rebuild
    cdef object method      # for the state of a bound method: its function
    cdef object activity    # a class, or several in order of preference

    cdef object val(self, bint locked)
    cdef object rebuilt(self, list leaves)

cdef class Call:
    cdef Context ctx
    cdef object function     # what rules get as func.val
    cdef object constant     # Const(function), shared by all calls
    cdef object rules
    cdef Part own            # the state of the function; None where it has none that is tracked
    cdef list parts          # the arguments, keywords after positional ones
    cdef list arrays         # the arrays of this context among them, and in structures
    cdef bint active
    cdef tuple names         # of the keywords
    cdef bint needs_primal
    cdef bint reads_only     # neither the function nor its rules write arguments
    cdef bint built_in       # cyad has a rule of its own for what these do not take
    cdef object returned     # the activity that autodiff was given, where this is what it differentiates

    cdef object note(self, object error, object rule)
    cdef int wrong(self, object rule, str what) except -1
    cdef object pick(self, object kind, object own, object rets, object activities)
    cdef tuple activities(self, bint unbatched)
    cdef object own_activity(self, bint unbatched)
    cdef tuple overwritten(self)
    cdef int forget(self) except -1
    cdef object run(self, object rule, list arguments)
    cdef int collect(self, Part part) except -1
    cdef int sort(self, list values, list structures) except -1
    cdef object run_function(self, list values)
    cdef int untouched(self, object rule, object a, object val, object dval, Py_ssize_t i) except -1
    cdef int check_level(self, object rule, object value) except -1
    cdef object plainly(self)
    cdef object inactive(self, object out)
    cdef object kept(self)
    cdef Part home_of(self, object value)
    cdef object easy(self)
    cdef object run_unwritten(self, object rule, list values)
    cdef tuple pick_easy(self)

cdef Config new_config(Context ctx, int width, bint primal, bint shadow, tuple overwritten)
cdef object annotation(object kind, object val, object dval)
cdef object by_lane(object kind, list lanes)
cdef object zero_like(object value)
cdef object batched(object activity)
cdef object unbatched(object activity)
cdef object kind_of(object value)
cdef Part leaf_of(Context ctx, object value)
cdef Part part_of(Context ctx, object value, object structure, bint reads_only)
cdef object opened(object value)
cdef bint is_simple(object value) noexcept
cdef list saved_memory(Tape tape, Call call)
cdef int log_writes(Tape tape, list saved) except -1
cdef bint writable(Part leaf) noexcept
cdef object copy_of(object array)
cdef object view_in(Part home, object out)
