# What carriers use of _redirect. It is functions, none inline: the state belongs to one shared object.
from cpython.object cimport PyObject

# handler(callee, args, nargsf, kwnames or None): the vectorcall convention, with nargsf for PyVectorcall_NARGS.
# The callee is the ufunc itself, or, for a redirected function, the object that always calls the original.
ctypedef object (*call_handler)(object callee, PyObject* const* args, size_t nargsf, object kwnames)

# What a fresh array becomes.
ctypedef object (*fresh_handler)(object array)

# The context of this thread, or NULL. Borrowed: who swaps one in keeps it alive and swaps back in `finally`, with what it got.
# `enter` for the length of code of the user's, whose results are tracked (`register_fresh_handler`), `leave` for an operator or
# a subscript of ours, which computes with plain arrays while the bytecode still stands at the user's.
cdef PyObject* current() noexcept nogil
cdef PyObject* swap_current(PyObject* context) noexcept nogil
cdef PyObject* enter(PyObject* context) noexcept nogil
cdef PyObject* leave() noexcept nogil

cdef object redirect_native(owner, str name, str gate, call_handler handler)
cdef void register_ufunc_handler(call_handler handler) noexcept
cdef void register_dispatcher_handler(call_handler handler) noexcept
cdef object call_ufunc(ufunc, PyObject* const* args, size_t nargsf, kwnames)
cdef void register_fresh_handler(fresh_handler handler) noexcept
cdef void register_compiled_handler(call_handler handler) noexcept
cdef object call_compiled(callable, PyObject* const* args, size_t nargsf, kwnames)
