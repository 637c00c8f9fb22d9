# What carriers use of _redirect. It is functions, none inline: the state belongs to one shared object.
from cpython.object cimport PyObject

# handler(callee, args, nargsf, kwnames or None): the vectorcall convention, with nargsf for PyVectorcall_NARGS.
# The callee is the ufunc itself, or, for a redirected function, the object that always calls the original.
ctypedef object (*call_handler)(object callee, PyObject* const* args, size_t nargsf, object kwnames)

# The context of this thread, or NULL. Borrowed: who swaps one in keeps it alive and swaps back in `finally`.
cdef PyObject* current() noexcept nogil
cdef PyObject* swap_current(PyObject* context) noexcept nogil

cdef object redirect_native(owner, str name, str gate, call_handler handler)
cdef void register_ufunc_handler(call_handler handler) noexcept
cdef void register_dispatcher_handler(call_handler handler) noexcept
cdef object call_ufunc(ufunc, PyObject* const* args, size_t nargsf, kwnames)
