/* The C side of _redirect.pyx: trampolines, gates, and the state they read. Included by that one file only; the
 * variables here are static, and a second includer would get a second current context.
 *
 * A trampoline has the calling convention of the function that it stands for and no room for a closure, so there is
 * one C function for each slot, made by macros. It looks at its slot's gate; closed, it calls the original with the
 * arguments as they came. What lies behind an open gate is out of line and shared.
 */
#ifndef CYAD_REDIRECT_H
#define CYAD_REDIRECT_H

#include <Python.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define NO_IMPORT_ARRAY
#define NO_IMPORT_UFUNC
#include <numpy/ndarraytypes.h>
#include <numpy/ufuncobject.h>

#define CYAD_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define CYAD_OUT_OF_LINE static __attribute__((noinline))

#ifdef Py_GIL_DISABLED
#define CYAD_FREE_THREADED 1
#else
#define CYAD_FREE_THREADED 0
#endif

typedef PyObject *(*cyad_handler)(PyObject *callee, PyObject *const *args, size_t nargsf, PyObject *kwnames);

enum { CYAD_CLOSED, CYAD_CONTEXT, CYAD_TYPES, CYAD_FRESH, CYAD_RESULT };


/* ---------------------------------------------------------------------------------------------------------------
 * The current context
 */

/* The default TLS model of a shared object calls __tls_get_addr on every access. glibc keeps room for a few words of
 * initial-exec storage in objects loaded late; musl does not. */
#ifdef __GLIBC__
static __thread PyObject *cyad_context __attribute__((tls_model("initial-exec"))) = NULL;
#else
static __thread PyObject *cyad_context = NULL;
#endif

/* The lowest bit says that it is the user's code that runs in this context, not cyad on behalf of an inner call. What is
 * swapped out is only ever swapped in again. */
#define CYAD_USERS ((uintptr_t)1)

static inline PyObject *cyad_current(void) { return (PyObject *)((uintptr_t)cyad_context & ~CYAD_USERS); }
static inline int cyad_in_users_code(void) { return CYAD_UNLIKELY((uintptr_t)cyad_context & CYAD_USERS); }

static inline PyObject *cyad_swap_current(PyObject *context)
{
    PyObject *old = cyad_context;
    cyad_context = context;
    return old;
}

static inline PyObject *cyad_enter(PyObject *context)
{
    return cyad_swap_current(context ? (PyObject *)((uintptr_t)context | CYAD_USERS) : NULL);
}

static inline PyObject *cyad_leave(void) { return cyad_swap_current(cyad_current()); }


/* ---------------------------------------------------------------------------------------------------------------
 * Gates
 */

#define CYAD_MAX_TYPES 8

/* Extension types are static objects, so those of one extension lie close together: a range test answers for nearly
 * every other type with one subtraction, whatever the number of types. Nothing has the type at address 1. */
static PyTypeObject *cyad_types[CYAD_MAX_TYPES];
static int cyad_n_types = 0;
static uintptr_t cyad_types_low = 1, cyad_types_span = 0;

static void cyad_set_types(PyTypeObject **types, int n)
{
    uintptr_t low = n ? UINTPTR_MAX : 1, high = n ? 0 : 1;
    for (int i = 0; i < n; i++) {
        uintptr_t t = (uintptr_t)types[i];
        cyad_types[i] = types[i];
        low = t < low ? t : low;
        high = t > high ? t : high;
    }
    cyad_n_types = n;
    cyad_types_low = low;
    cyad_types_span = high - low;
}

CYAD_OUT_OF_LINE int cyad_is_listed(PyTypeObject *type)
{
    for (int i = 0; i < cyad_n_types; i++)
        if (cyad_types[i] == type)
            return 1;
    return 0;
}

static inline int cyad_is_tracked(PyObject *x)
{
    return CYAD_UNLIKELY((uintptr_t)Py_TYPE(x) - cyad_types_low <= cyad_types_span) && cyad_is_listed(Py_TYPE(x));
}

static inline int cyad_any_tracked(PyObject *const *args, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < n; i++)
        if (cyad_is_tracked(args[i]))
            return 1;
    return 0;
}

static inline int cyad_any_value_tracked(PyObject *dict)
{
    PyObject *key, *value;
    Py_ssize_t pos = 0;
    while (dict && PyDict_Next(dict, &pos, &key, &value))
        if (cyad_is_tracked(value))
            return 1;
    return 0;
}

/* Lists are arrays to NumPy: one that holds tracked numbers counts as tracked inside a call, at whatever depth. */
CYAD_OUT_OF_LINE int cyad_holds_tracked(PyObject *list, int depth)
{
    PyObject **items = PySequence_Fast_ITEMS(list);
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(list); i++) {
        if (cyad_is_tracked(items[i]))
            return 1;
        if (depth && (PyList_CheckExact(items[i]) || PyTuple_CheckExact(items[i]))
            && cyad_holds_tracked(items[i], depth - 1))
            return 1;
    }
    return 0;
}

static inline int cyad_any_list_tracked(PyObject *const *args, Py_ssize_t n)
{
    if (!cyad_context)
        return 0;
    for (Py_ssize_t i = 0; i < n; i++)
        if ((PyList_CheckExact(args[i]) || PyTuple_CheckExact(args[i])) && cyad_holds_tracked(args[i], 8))
            return 1;
    return 0;
}

static inline Py_ssize_t cyad_length(PyObject *kwnames) { return kwnames ? PyTuple_GET_SIZE(kwnames) : 0; }


/* ---------------------------------------------------------------------------------------------------------------
 * Fresh results of plain operands
 */

/* An array that NumPy computes from plain ones alone may be written later: u = np.sin(X); u[0] = a. In the user's code such a
 * result is tracked like what creation functions make; in compiled code, which takes results for ndarrays without asking, it is
 * not. So two things must hold: nobody else refers to the memory, and it was Python's own bytecode that asked. */
static PyTypeObject *cyad_ndarray = NULL;
static PyObject *(*cyad_fresh_handler)(PyObject *) = NULL; /* borrows, returns a new reference */
static unsigned char cyad_opcodes[256];                    /* which of the two an opcode is, if any */
enum { CYAD_OPERATOR = 1, CYAD_CALL = 2 };                 /* an operator or a subscript; a call */

static inline int cyad_is_fresh(PyObject *out)
{
    if (!Py_IS_TYPE(out, cyad_ndarray) || Py_REFCNT(out) != 1)
        return 0;
    PyArrayObject *a = (PyArrayObject *)out;
    int type = PyArray_DESCR(a)->type_num;
    if (!PyTypeNum_ISFLOAT(type) && !PyTypeNum_ISCOMPLEX(type))
        return 0;
    PyObject *base = PyArray_BASE(a);
    if (base) { /* a view that alone keeps its memory is as good */
        if (!Py_IS_TYPE(base, cyad_ndarray) || Py_REFCNT(base) != 1 || PyArray_BASE((PyArrayObject *)base))
            return 0;
        a = (PyArrayObject *)base;
    }
    return PyArray_CHKFLAGS(a, NPY_ARRAY_OWNDATA | NPY_ARRAY_BEHAVED);
}

/* NumPy's own Python code computes with what it was given, subclasses of ndarray among them; what it returns is looked at. */
static int cyad_is_numpys(PyFrameObject *frame)
{
    PyObject *globals = PyFrame_GetGlobals(frame), *name = PyDict_GetItemString(globals, "__name__");
    const char *text = name && PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
    int found = text && !strncmp(text, "numpy", 5) && (text[5] == '.' || !text[5]);
    Py_DECREF(globals);
    return found;
}

/* Whether the user's bytecode called by name: the interpreter leaves the callable on its stack, below the arguments. Compiled
 * callers keep theirs on the C stack, or in blocks whose first word is empty. */
CYAD_OUT_OF_LINE int cyad_called_by_name(PyObject *callable, PyObject *const *args, size_t nargsf)
{
    if (!(nargsf & PY_VECTORCALL_ARGUMENTS_OFFSET)
        || (uintptr_t)args - (uintptr_t)__builtin_frame_address(0) < ((uintptr_t)1 << 16))
        return 0;
#if PY_VERSION_HEX >= 0x030D0000
    if (args[-1] != callable && (args[-1] != NULL || args[-2] != callable)) /* of a method, or else a function */
        return 0;
#else
    if (args[-1] != callable)
        return 0;
#endif
    PyFrameObject *frame = PyEval_GetFrame();
    return frame && !cyad_is_numpys(frame);
}

/* Whether the innermost Python code is the user's, and stands at an instruction of this kind: then it is what NumPy was asked
 * to do. */
CYAD_OUT_OF_LINE int cyad_stands_at(int kind)
{
    PyFrameObject *frame = PyEval_GetFrame();
    if (!frame)
        return 0;
    PyCodeObject *code = PyFrame_GetCode(frame);
    PyObject *bytes = PyCode_GetCode(code);
    int at = PyFrame_GetLasti(frame), found = 0;
    if (!bytes)
        PyErr_Clear();
    else if (at >= 0 && at < PyBytes_GET_SIZE(bytes))
        found = cyad_opcodes[(unsigned char)PyBytes_AS_STRING(bytes)[at]] == kind && !cyad_is_numpys(frame);
    Py_XDECREF(bytes);
    Py_DECREF(code);
    return found;
}

/* Steals a result, or several in a tuple (a named one, too), and returns it tracked where it is fresh. */
CYAD_OUT_OF_LINE PyObject *cyad_keep_fresh(PyObject *out)
{
    if (cyad_is_fresh(out)) {
        PyObject *kept = cyad_fresh_handler(out);
        Py_DECREF(out);
        return kept;
    }
    if (!PyTuple_Check(out) || Py_REFCNT(out) != 1)
        return out;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(out); i++) {
        PyObject *item = PyTuple_GET_ITEM(out, i);
        if (!cyad_is_fresh(item))
            continue;
        PyObject *kept = cyad_fresh_handler(item);
        if (!kept) {
            Py_DECREF(out);
            return NULL;
        }
        PyTuple_SET_ITEM(out, i, kept);
        Py_DECREF(item);
    }
    return out;
}

static inline int cyad_may_be_fresh(PyObject *out)
{
    return out && (cyad_is_fresh(out) || PyTuple_Check(out)) && cyad_fresh_handler;
}


static inline PyObject *cyad_looked_at(PyObject *out)
{
    return cyad_in_users_code() && cyad_may_be_fresh(out) && cyad_stands_at(CYAD_CALL) ? cyad_keep_fresh(out) : out;
}


/* ---------------------------------------------------------------------------------------------------------------
 * Slots: one for each redirected function
 */

enum {
    CYAD_NOARGS, CYAD_O, CYAD_FASTCALL, CYAD_FASTCALL_KEYWORDS, CYAD_VARARGS, CYAD_VARARGS_KEYWORDS,
    CYAD_N_CONVENTIONS
};
#define CYAD_N_SLOTS 96 /* for each convention; the macro CYAD_96 must agree */

/* A slot belongs to its function for ever, also while the function is not redirected: `original` is made from `copy`
 * and may be held by anybody, and a caller may have fetched the trampoline just before it was taken out. */
typedef struct {
    PyMethodDef copy;      /* with the original C function */
    PyMethodDef *live;     /* what the interpreter reads; NULL while the slot is free */
    PyObject *function;    /* keeps `live` alive */
    PyObject *original;    /* calls the original whatever the gate says */
    PyObject *handler;     /* a Python callable, or NULL where `native` is set */
    cyad_handler native;
    int gate, is_method;
} cyad_slot;

static cyad_slot cyad_slots[CYAD_N_CONVENTIONS][CYAD_N_SLOTS];

/* Calls handler(original, self if a method, *args, **kwargs). */
CYAD_OUT_OF_LINE PyObject *cyad_handle(PyObject *original, PyObject *handler, cyad_handler native, PyObject *self,
                                       PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (native && !self)
        return native(original, args, (size_t)nargs, kwnames ? kwnames : Py_None);

    PyObject *small[10], **stack = small, *result;
    Py_ssize_t n = nargs + cyad_length(kwnames), lead = self ? 2 : 1;
    if (n + 2 > 10) {
        stack = (PyObject **)PyMem_Malloc((size_t)(n + 2) * sizeof(PyObject *));
        if (!stack)
            return PyErr_NoMemory();
    }
    stack[0] = original;
    stack[1] = self; /* overwritten by the next line where there is none */
    if (n)
        memcpy(stack + lead, args, (size_t)n * sizeof(PyObject *));
    if (native) {
        result = native(original, stack + 1, (size_t)(nargs + 1), kwnames ? kwnames : Py_None);
    }
    else {
        Py_INCREF(handler); /* it may be taken out while it runs */
        result = PyObject_Vectorcall(handler, stack, (size_t)(nargs + lead), kwnames);
        Py_DECREF(handler);
    }
    if (stack != small)
        PyMem_Free(stack);
    return result;
}

CYAD_OUT_OF_LINE PyObject *cyad_open(cyad_slot *s, PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                     PyObject *kwnames)
{
    return cyad_handle(s->original, s->handler, s->native, s->is_method ? self : NULL, args, nargs, kwnames);
}

/* The same for one argument: by value, so that the trampoline needs no stack and can jump to the original. */
CYAD_OUT_OF_LINE PyObject *cyad_open_one(cyad_slot *s, PyObject *self, PyObject *arg)
{
    return cyad_open(s, self, &arg, 1, NULL);
}

/* A tuple and a dictionary as what a vectorcall has. The values are held, because the dictionary may belong to somebody else. */
static int cyad_flatten(PyObject *args, PyObject *kwargs, PyObject **flat, PyObject **kwnames)
{
    Py_ssize_t nargs = PyTuple_GET_SIZE(args), nkw = kwargs ? PyDict_GET_SIZE(kwargs) : 0, pos = 0;
    PyObject *key, *value;
    *kwnames = NULL;
    *flat = Py_NewRef(args);
    if (!nkw)
        return 1;
    Py_SETREF(*flat, PyTuple_New(nargs + nkw));
    *kwnames = PyTuple_New(nkw);
    if (!*flat || !*kwnames)
        goto failed;
    for (Py_ssize_t i = 0; i < nargs; i++)
        PyTuple_SET_ITEM(*flat, i, Py_NewRef(PyTuple_GET_ITEM(args, i)));
    for (Py_ssize_t i = 0; PyDict_Next(kwargs, &pos, &key, &value); i++) {
        if (!PyUnicode_Check(key)) {
            PyErr_SetString(PyExc_TypeError, "keywords must be strings");
            goto failed;
        }
        PyTuple_SET_ITEM(*kwnames, i, Py_NewRef(key));
        PyTuple_SET_ITEM(*flat, nargs + i, Py_NewRef(value));
    }
    return 1;
failed:
    Py_CLEAR(*flat);
    Py_CLEAR(*kwnames);
    return 0;
}

static PyObject *cyad_open_dict(cyad_slot *s, PyObject *self, PyObject *args, PyObject *kwargs)
{
    PyObject *flat, *kwnames, *result;
    if (!cyad_flatten(args, kwargs, &flat, &kwnames))
        return NULL;
    result = cyad_open(s, self, ((PyTupleObject *)flat)->ob_item, PyTuple_GET_SIZE(args), kwnames);
    Py_DECREF(flat);
    Py_XDECREF(kwnames);
    return result;
}

/* And back: the dictionary is NULL where there are no keywords. */
static int cyad_as_tuple_and_dict(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **tuple, PyObject **dict)
{
    *dict = NULL;
    *tuple = PyTuple_New(nargs);
    if (!*tuple)
        return 0;
    for (Py_ssize_t i = 0; i < nargs; i++)
        PyTuple_SET_ITEM(*tuple, i, Py_NewRef(args[i]));
    if (!cyad_length(kwnames))
        return 1;
    *dict = PyDict_New();
    for (Py_ssize_t i = 0; *dict && i < PyTuple_GET_SIZE(kwnames); i++)
        if (PyDict_SetItem(*dict, PyTuple_GET_ITEM(kwnames, i), args[nargs + i]) < 0)
            Py_CLEAR(*dict);
    if (!*dict)
        Py_CLEAR(*tuple);
    return *tuple != NULL;
}


/* ---------------------------------------------------------------------------------------------------------------
 * Trampolines
 */

typedef PyObject *(*cyad_fast)(PyObject *, PyObject *const *, Py_ssize_t);
typedef PyObject *(*cyad_fast_keywords)(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);
#define CYAD_ORIGINAL(s, type) ((type)(void (*)(void))(s)->copy.ml_meth)

/* `scan` is evaluated only where the gate looks at types. */
#define CYAD_IS_OPEN(s, scan) \
    CYAD_UNLIKELY((s)->gate == CYAD_CONTEXT ? cyad_context != NULL \
                  : ((s)->gate == CYAD_TYPES || (s)->gate == CYAD_FRESH) && (scan))

/* What the original returned, looked at where the gate says so. */
#define CYAD_RETURNED(s, out) ((s)->gate >= CYAD_FRESH ? cyad_looked_at(out) : (out))

static inline PyObject *cyad_noargs(cyad_slot *s, PyObject *self, PyObject *unused)
{
    if (CYAD_IS_OPEN(s, cyad_is_tracked(self)))
        return cyad_open(s, self, NULL, 0, NULL);
    return CYAD_RETURNED(s, s->copy.ml_meth(self, unused));
}

static inline PyObject *cyad_o(cyad_slot *s, PyObject *self, PyObject *arg)
{
    if (CYAD_IS_OPEN(s, cyad_is_tracked(arg) || (self && cyad_is_tracked(self))))
        return cyad_open_one(s, self, arg);
    return CYAD_RETURNED(s, s->copy.ml_meth(self, arg));
}

static inline PyObject *cyad_fastcall(cyad_slot *s, PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (CYAD_IS_OPEN(s, cyad_any_tracked(args, nargs) || (self && cyad_is_tracked(self))))
        return cyad_open(s, self, args, nargs, NULL);
    return CYAD_RETURNED(s, CYAD_ORIGINAL(s, cyad_fast)(self, args, nargs));
}

static inline PyObject *cyad_fastcall_keywords(cyad_slot *s, PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                               PyObject *kwnames)
{
    if (CYAD_IS_OPEN(s, cyad_any_tracked(args, nargs + cyad_length(kwnames)) || (self && cyad_is_tracked(self))
                            || cyad_any_list_tracked(args, nargs)))
        return cyad_open(s, self, args, nargs, kwnames);
    return CYAD_RETURNED(s, CYAD_ORIGINAL(s, cyad_fast_keywords)(self, args, nargs, kwnames));
}

static inline int cyad_scan_varargs(PyObject *self, PyObject *args, PyObject *kwargs)
{
    return cyad_any_tracked(((PyTupleObject *)args)->ob_item, PyTuple_GET_SIZE(args))
        || cyad_any_value_tracked(kwargs) || (self && cyad_is_tracked(self))
        || cyad_any_list_tracked(((PyTupleObject *)args)->ob_item, PyTuple_GET_SIZE(args));
}

static inline PyObject *cyad_varargs(cyad_slot *s, PyObject *self, PyObject *args)
{
    if (CYAD_IS_OPEN(s, cyad_scan_varargs(self, args, NULL)))
        return cyad_open(s, self, ((PyTupleObject *)args)->ob_item, PyTuple_GET_SIZE(args), NULL);
    return CYAD_RETURNED(s, s->copy.ml_meth(self, args));
}

static inline PyObject *cyad_varargs_keywords(cyad_slot *s, PyObject *self, PyObject *args, PyObject *kwargs)
{
    if (CYAD_IS_OPEN(s, cyad_scan_varargs(self, args, kwargs)))
        return cyad_open_dict(s, self, args, kwargs);
    return CYAD_RETURNED(s, CYAD_ORIGINAL(s, PyCFunctionWithKeywords)(self, args, kwargs));
}

/* M(i) for i = 000 ... 077, 0100 ... 0137, which are octal literals. */
#define CYAD_8(M, d) M(d##0) M(d##1) M(d##2) M(d##3) M(d##4) M(d##5) M(d##6) M(d##7)
#define CYAD_96(M) \
    CYAD_8(M, 00) CYAD_8(M, 01) CYAD_8(M, 02) CYAD_8(M, 03) CYAD_8(M, 04) CYAD_8(M, 05) CYAD_8(M, 06) CYAD_8(M, 07) \
    CYAD_8(M, 010) CYAD_8(M, 011) CYAD_8(M, 012) CYAD_8(M, 013)

#define CYAD_DEFINE(i) \
    static PyObject *cyad_noargs_##i(PyObject *self, PyObject *x) \
    { return cyad_noargs(&cyad_slots[CYAD_NOARGS][i], self, x); } \
    static PyObject *cyad_o_##i(PyObject *self, PyObject *x) \
    { return cyad_o(&cyad_slots[CYAD_O][i], self, x); } \
    static PyObject *cyad_fastcall_##i(PyObject *self, PyObject *const *args, Py_ssize_t n) \
    { return cyad_fastcall(&cyad_slots[CYAD_FASTCALL][i], self, args, n); } \
    static PyObject *cyad_fastcall_keywords_##i(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names) \
    { return cyad_fastcall_keywords(&cyad_slots[CYAD_FASTCALL_KEYWORDS][i], self, args, n, names); } \
    static PyObject *cyad_varargs_##i(PyObject *self, PyObject *args) \
    { return cyad_varargs(&cyad_slots[CYAD_VARARGS][i], self, args); } \
    static PyObject *cyad_varargs_keywords_##i(PyObject *self, PyObject *args, PyObject *kwargs) \
    { return cyad_varargs_keywords(&cyad_slots[CYAD_VARARGS_KEYWORDS][i], self, args, kwargs); }
CYAD_96(CYAD_DEFINE)

#define CYAD_LIST_NOARGS(i) cyad_noargs_##i,
#define CYAD_LIST_O(i) cyad_o_##i,
#define CYAD_LIST_FASTCALL(i) (PyCFunction)(void (*)(void))cyad_fastcall_##i,
#define CYAD_LIST_FASTCALL_KEYWORDS(i) (PyCFunction)(void (*)(void))cyad_fastcall_keywords_##i,
#define CYAD_LIST_VARARGS(i) cyad_varargs_##i,
#define CYAD_LIST_VARARGS_KEYWORDS(i) (PyCFunction)(void (*)(void))cyad_varargs_keywords_##i,
static const PyCFunction cyad_trampolines[CYAD_N_CONVENTIONS][CYAD_N_SLOTS] = {
    {CYAD_96(CYAD_LIST_NOARGS)}, {CYAD_96(CYAD_LIST_O)}, {CYAD_96(CYAD_LIST_FASTCALL)},
    {CYAD_96(CYAD_LIST_FASTCALL_KEYWORDS)}, {CYAD_96(CYAD_LIST_VARARGS)}, {CYAD_96(CYAD_LIST_VARARGS_KEYWORDS)},
};

static int cyad_convention(int flags)
{
    switch (flags & ~METH_COEXIST) {
    case METH_NOARGS: return CYAD_NOARGS;
    case METH_O: return CYAD_O;
    case METH_FASTCALL: return CYAD_FASTCALL;
    case METH_FASTCALL | METH_KEYWORDS: return CYAD_FASTCALL_KEYWORDS;
    case METH_VARARGS: return CYAD_VARARGS;
    case METH_VARARGS | METH_KEYWORDS: return CYAD_VARARGS_KEYWORDS;
    default: return -1; /* METH_METHOD, METH_CLASS, METH_STATIC: nothing that cyad redirects has these */
    }
}

static PyMethodDef *cyad_function_def(PyObject *f)
{
    return PyCFunction_CheckExact(f) ? ((PyCFunctionObject *)f)->m_ml : NULL;
}

static PyMethodDef *cyad_method_def(PyObject *f)
{
    return Py_IS_TYPE(f, &PyMethodDescr_Type) ? ((PyMethodDescrObject *)f)->d_method : NULL;
}

/* Whether a pointer may be stored at p. A table that was declared const lies in memory that the loader protects,
 * where a store ends the process; the kernel, asked to put there what is there, only says no. */
static int cyad_can_store(void *p)
{
    int ends[2], can = 0;
    if (pipe(ends))
        return 0;
    if (write(ends[1], p, sizeof(void *)) == (ssize_t)sizeof(void *))
        can = read(ends[0], p, sizeof(void *)) == (ssize_t)sizeof(void *);
    close(ends[0]);
    close(ends[1]);
    return can;
}

/* The object that always calls the original; the slot has `copy` filled in. */
static PyObject *cyad_make_original(cyad_slot *s)
{
    if (s->is_method)
        return PyDescr_NewMethod(PyDescr_TYPE(s->function), &s->copy);
    PyCFunctionObject *f = (PyCFunctionObject *)s->function;
    return PyCFunction_NewEx(&s->copy, f->m_self, f->m_module);
}


/* ---------------------------------------------------------------------------------------------------------------
 * Types called: np.ndarray(shape), _array_converter(a, b)
 */

#define CYAD_N_TYPE_SLOTS 16

typedef struct {
    PyTypeObject *type;
    vectorcallfunc previous; /* of tp_vectorcall; mostly NULL, then the metatype's tp_call makes the object */
    PyObject *original, *handler;
    PyMethodDef def;
    int gate;
} cyad_type_slot;

static cyad_type_slot cyad_type_slots[CYAD_N_TYPE_SLOTS];

/* A call by tp_call, of what has no vectorcall. */
static PyObject *cyad_tp_call(PyObject *callable, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *positional, *keywords, *result;
    if (!cyad_as_tuple_and_dict(args, nargs, kwnames, &positional, &keywords))
        return NULL;
    result = Py_TYPE(callable)->tp_call(callable, positional, keywords);
    Py_DECREF(positional);
    Py_XDECREF(keywords);
    return result;
}

static PyObject *cyad_type_plain(cyad_type_slot *s, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *type = (PyObject *)s->type;
    return s->previous ? s->previous(type, args, (size_t)nargs, kwnames) : cyad_tp_call(type, args, nargs, kwnames);
}

static cyad_type_slot *cyad_find_type(PyObject *type)
{
    for (int i = 0; i < CYAD_N_TYPE_SLOTS; i++)
        if ((PyObject *)cyad_type_slots[i].type == type)
            return &cyad_type_slots[i];
    return NULL;
}

static PyObject *cyad_type_call(PyObject *type, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    cyad_type_slot *s = cyad_find_type(type);
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    if (CYAD_IS_OPEN(s, cyad_any_tracked(args, nargs + cyad_length(kwnames)) || cyad_any_list_tracked(args, nargs)))
        return cyad_handle(s->original, s->handler, NULL, NULL, args, nargs, kwnames);
    return cyad_type_plain(s, args, nargs, kwnames);
}

static PyObject *cyad_type_original(PyObject *type, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return cyad_type_plain(cyad_find_type(type), args, nargs, kwnames);
}

static PyObject *cyad_make_type_original(cyad_type_slot *s)
{
    s->def.ml_name = s->type->tp_name;
    s->def.ml_meth = (PyCFunction)(void (*)(void))cyad_type_original;
    s->def.ml_flags = METH_FASTCALL | METH_KEYWORDS;
    s->def.ml_doc = NULL;
    return PyCFunction_NewEx(&s->def, (PyObject *)s->type, NULL);
}


/* ---------------------------------------------------------------------------------------------------------------
 * Subscripts of arrays
 */

static binaryfunc cyad_subscript_original = NULL;

static PyObject *cyad_subscript(PyObject *self, PyObject *key)
{
    PyObject *out = cyad_subscript_original(self, key);
    if (cyad_in_users_code() && cyad_may_be_fresh(out) && cyad_stands_at(CYAD_OPERATOR))
        return cyad_keep_fresh(out);
    return out;
}

static int cyad_set_subscript(PyTypeObject *ndarray, int on)
{
    binaryfunc *live = &ndarray->tp_as_mapping->mp_subscript;
    if (!on) {
        if (*live == cyad_subscript)
            *live = cyad_subscript_original;
        return 1;
    }
    if (*live == cyad_subscript)
        return 1;
    if (cyad_subscript_original && *live != cyad_subscript_original)
        return 0;
    cyad_subscript_original = *live;
    *live = cyad_subscript;
    return 1;
}


/* ---------------------------------------------------------------------------------------------------------------
 * ufuncs
 */

/* All ufuncs share one C function, so one pointer remembers it; a ufunc with another one is refused. */
static vectorcallfunc cyad_ufunc_original = NULL;
static cyad_handler cyad_ufunc_handler = NULL;

static PyObject *cyad_ufunc_call(PyObject *ufunc, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    Py_ssize_t n = PyVectorcall_NARGS(nargsf) + cyad_length(kwnames);
    if (CYAD_UNLIKELY(cyad_any_tracked(args, n) || cyad_any_list_tracked(args, PyVectorcall_NARGS(nargsf)))
        && cyad_ufunc_handler) {
        PyObject *users = cyad_leave(), *result = cyad_ufunc_handler(ufunc, args, nargsf, kwnames ? kwnames : Py_None);
        cyad_swap_current(users);
        return result;
    }
    PyObject *out = cyad_ufunc_original(ufunc, args, nargsf, kwnames);
    if (cyad_in_users_code() && cyad_may_be_fresh(out)
        && (nargsf & PY_VECTORCALL_ARGUMENTS_OFFSET ? cyad_called_by_name(ufunc, args, nargsf) : cyad_stands_at(CYAD_OPERATOR)))
        return cyad_keep_fresh(out);
    return out;
}

static vectorcallfunc cyad_get_ufunc(PyObject *ufunc) { return ((PyUFuncObject *)ufunc)->vectorcall; }
static void cyad_set_ufunc(PyObject *ufunc, vectorcallfunc f) { ((PyUFuncObject *)ufunc)->vectorcall = f; }


/* ---------------------------------------------------------------------------------------------------------------
 * NumPy's dispatchers
 */

/* They look for __array_function__ on arguments and entries of lists that they know of: not on the numbers in a list that
 * is an array itself. Like ufuncs they share one C function, behind a pointer of each whose place its type tells. */
static vectorcallfunc cyad_dispatcher_original = NULL;
static cyad_handler cyad_dispatcher_handler = NULL;

static PyObject *cyad_dispatcher_call(PyObject *function, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    Py_ssize_t n = PyVectorcall_NARGS(nargsf) + cyad_length(kwnames);
    if (CYAD_UNLIKELY(cyad_any_list_tracked(args, n)) && cyad_dispatcher_handler)
        return cyad_dispatcher_handler(function, args, nargsf, kwnames ? kwnames : Py_None);
    PyObject *out = cyad_dispatcher_original(function, args, nargsf, kwnames);
    if (cyad_in_users_code() && cyad_may_be_fresh(out) && cyad_called_by_name(function, args, nargsf))
        return cyad_keep_fresh(out);
    return out;
}

static vectorcallfunc *cyad_vectorcall_slot(PyObject *function)
{
    PyTypeObject *type = Py_TYPE(function);
    if (!(type->tp_flags & Py_TPFLAGS_HAVE_VECTORCALL) || type->tp_vectorcall_offset <= 0)
        return NULL;
    return (vectorcallfunc *)((char *)function + type->tp_vectorcall_offset);
}

static vectorcallfunc cyad_get_vectorcall(PyObject *function)
{
    vectorcallfunc *slot = cyad_vectorcall_slot(function);
    return slot ? *slot : NULL;
}

static void cyad_set_vectorcall(PyObject *function, vectorcallfunc f) { *cyad_vectorcall_slot(function) = f; }


/* ---------------------------------------------------------------------------------------------------------------
 * Functions of compiled libraries
 */

/* They take ndarrays by their type: a tracked array that holds no active value is handed over as plain memory. Each function has a
 * vectorcall pointer of its own, or its type a tp_call; a table, read and written under the GIL, says what stood there. */
typedef struct {
    PyObject *callable; /* a function, a type, or what a function alone is bound to; held */
    PyObject *function; /* of the last of these; held */
    vectorcallfunc vectorcall;
    ternaryfunc call;
    cyad_fast_keywords fast;
    int on;
} cyad_compiled;

static cyad_compiled *cyad_table = NULL;
static size_t cyad_table_size = 0, cyad_table_used = 0; /* a power of two; at most half of it is used */
static cyad_handler cyad_compiled_handler = NULL;

static cyad_compiled *cyad_find(PyObject *callable)
{
    if (!cyad_table_size)
        return NULL;
    size_t mask = cyad_table_size - 1, i = ((uintptr_t)callable >> 4) * (size_t)0x9E3779B97F4A7C15u >> 20 & mask;
    while (cyad_table[i].callable && cyad_table[i].callable != callable)
        i = (i + 1) & mask;
    return &cyad_table[i];
}

static int cyad_enlarge_table(void)
{
    if (2 * (cyad_table_used + 1) <= cyad_table_size)
        return 1;
    size_t old_size = cyad_table_size, size = old_size ? 4 * old_size : 1024;
    cyad_compiled *old = cyad_table, *table = (cyad_compiled *)PyMem_Calloc(size, sizeof(cyad_compiled));
    if (!table)
        return 0;
    cyad_table = table;
    cyad_table_size = size;
    for (size_t i = 0; i < old_size; i++)
        if (old[i].callable)
            *cyad_find(old[i].callable) = old[i];
    PyMem_Free(old);
    return 1;
}

static PyObject *cyad_compiled_call(PyObject *, PyObject *const *, size_t, PyObject *);

/* The original, whatever the arguments. tp_call may look for a vectorcall: while it runs there is none, and whoever calls meanwhile,
 * in another thread, calls the original, too. */
static PyObject *cyad_call_compiled(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    cyad_compiled *entry = cyad_find((PyObject *)Py_TYPE(callable)); /* of a type that is called by tp_call, or else the function */
    if (!entry || !entry->callable)
        entry = cyad_find(callable);
    if (!entry || !entry->callable)
        return PyObject_Vectorcall(callable, args, nargsf, kwnames);
    if (entry->fast)
        return entry->fast(PyCFunction_GET_SELF(callable), args, PyVectorcall_NARGS(nargsf), kwnames);
    if (entry->vectorcall)
        return entry->vectorcall(callable, args, nargsf, kwnames);
    if (entry->call) {
        PyObject *positional, *keywords, *result;
        if (!cyad_as_tuple_and_dict(args, PyVectorcall_NARGS(nargsf), kwnames, &positional, &keywords))
            return NULL;
        result = entry->call(callable, positional, keywords);
        Py_DECREF(positional);
        Py_XDECREF(keywords);
        return result;
    }
    vectorcallfunc *slot = cyad_vectorcall_slot(callable);
    *slot = NULL;
    PyObject *out = cyad_tp_call(callable, args, PyVectorcall_NARGS(nargsf), kwnames);
    *slot = cyad_find(callable)->on ? cyad_compiled_call : NULL;
    return out;
}

static PyObject *cyad_compiled_call(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    PyObject *out, *users;
    if (CYAD_UNLIKELY(cyad_any_tracked(args, PyVectorcall_NARGS(nargsf) + cyad_length(kwnames))) && cyad_compiled_handler) {
        users = cyad_leave();
        out = cyad_compiled_handler(callable, args, nargsf, kwnames ? kwnames : Py_None);
        cyad_swap_current(users);
    }
    else {
        out = cyad_call_compiled(callable, args, nargsf, kwnames);
    }
    if (cyad_in_users_code() && cyad_may_be_fresh(out) && cyad_called_by_name(callable, args, nargsf))
        return cyad_keep_fresh(out);
    return out;
}

/* The same for a type's tp_call: the arguments of the handler are as in a vectorcall. */
static PyObject *cyad_compiled_tp_call(PyObject *callable, PyObject *args, PyObject *kwargs)
{
    PyObject *out, *users, *flat, *kwnames;
    Py_ssize_t nargs = PyTuple_GET_SIZE(args);
    if (CYAD_UNLIKELY(cyad_any_tracked(((PyTupleObject *)args)->ob_item, nargs) || cyad_any_value_tracked(kwargs))
        && cyad_compiled_handler) {
        users = cyad_leave();
        out = NULL;
        if (cyad_flatten(args, kwargs, &flat, &kwnames)) {
            out = cyad_compiled_handler(callable, ((PyTupleObject *)flat)->ob_item, (size_t)nargs, kwnames ? kwnames : Py_None);
            Py_DECREF(flat);
            Py_XDECREF(kwnames);
        }
        cyad_swap_current(users);
    }
    else {
        out = cyad_find((PyObject *)Py_TYPE(callable))->call(callable, args, kwargs);
    }
    return cyad_looked_at(out);
}

/* The same for the C function of a METH_FASTCALL | METH_KEYWORDS function, which the interpreter calls without looking at the vectorcall
 * pointer; `self` tells which function it is, because it is bound to that one only (pybind11's are). */
static PyObject *cyad_compiled_fast(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *out, *users;
    cyad_compiled *entry = cyad_find(self);
    if (CYAD_UNLIKELY(cyad_any_tracked(args, nargs + cyad_length(kwnames))) && cyad_compiled_handler) {
        users = cyad_leave();
        out = cyad_compiled_handler(entry->function, args, (size_t)nargs, kwnames ? kwnames : Py_None);
        cyad_swap_current(users);
    }
    else {
        out = entry->fast(self, args, nargs, kwnames);
    }
    return cyad_looked_at(out);
}

/* A new entry, off, or the one there is; NULL without memory. */
static cyad_compiled *cyad_enter_compiled(PyObject *callable)
{
    if (!cyad_enlarge_table()) {
        PyErr_NoMemory();
        return NULL;
    }
    cyad_compiled *entry = cyad_find(callable);
    if (!entry->callable) {
        entry->callable = Py_NewRef(callable);
        cyad_table_used++;
    }
    return entry;
}

/* What stands where a kind of callable is redirected: CYAD_BY_POINTER a vectorcall pointer of its own, CYAD_BY_TYPE the tp_call of a
 * type, CYAD_BY_SELF the C function of one that is bound to an object of its own. */
enum { CYAD_BY_POINTER = 1, CYAD_BY_TYPE, CYAD_BY_SELF };

/* 0 with an exception, 1 if it is redirected now, 2 if it was, or cannot be. */
static int cyad_watch(PyObject *callable, int by)
{
    vectorcallfunc *slot = by == CYAD_BY_POINTER ? cyad_vectorcall_slot(callable) : NULL;
    PyMethodDef *def = by == CYAD_BY_SELF ? cyad_function_def(callable) : NULL;
    if (by == CYAD_BY_POINTER && !slot)
        return 2;
    cyad_compiled *entry = cyad_enter_compiled(callable), *bound;
    if (!entry)
        return 0;
    if (entry->on)
        return 2;
    if (by == CYAD_BY_POINTER) {
        entry->vectorcall = *slot;
        *slot = cyad_compiled_call;
    }
    else if (by == CYAD_BY_TYPE) {
        entry->call = ((PyTypeObject *)callable)->tp_call;
        ((PyTypeObject *)callable)->tp_call = cyad_compiled_tp_call;
    }
    else {
        bound = cyad_enter_compiled(PyCFunction_GET_SELF(callable));
        entry = cyad_find(callable); /* the table may have moved */
        if (!bound || !cyad_can_store(&def->ml_meth))
            return bound ? 2 : 0;
        Py_XSETREF(bound->function, Py_NewRef(callable));
        entry->fast = bound->fast = (cyad_fast_keywords)(void (*)(void))def->ml_meth;
        def->ml_meth = (PyCFunction)(void (*)(void))cyad_compiled_fast;
    }
    entry->on = by;
    return 1;
}

static void cyad_unwatch(PyObject *callable)
{
    cyad_compiled *entry = cyad_find(callable);
    if (!entry || !entry->on)
        return;
    PyMethodDef *def = entry->on == CYAD_BY_SELF ? cyad_function_def(callable) : NULL;
    if (entry->on == CYAD_BY_TYPE && ((PyTypeObject *)callable)->tp_call == cyad_compiled_tp_call)
        ((PyTypeObject *)callable)->tp_call = entry->call;
    if (entry->on == CYAD_BY_POINTER && *cyad_vectorcall_slot(callable) == cyad_compiled_call)
        *cyad_vectorcall_slot(callable) = entry->vectorcall;
    if (def && def->ml_meth == (PyCFunction)(void (*)(void))cyad_compiled_fast)
        def->ml_meth = (PyCFunction)(void (*)(void))entry->fast;
    entry->on = 0;
}


/* ---------------------------------------------------------------------------------------------------------------
 * Imports
 */

/* What is called after an import inside a context: it looks after the new modules. Held by _redirect.pyx. */
static PyObject *cyad_after_import = NULL;

/* importlib's _find_and_load with no context. In C, so that it adds no line to the tracebacks of failing imports. */
static PyObject *cyad_import(PyObject *find_and_load, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *old = cyad_swap_current(NULL);
    PyObject *module = PyObject_Vectorcall(find_and_load, args, (size_t)nargs, kwnames);
    if (old && module && cyad_after_import) {
        PyObject *done = PyObject_CallNoArgs(cyad_after_import);
        if (!done)
            Py_CLEAR(module);
        Py_XDECREF(done);
    }
    cyad_swap_current(old);
    return module;
}

static PyMethodDef cyad_import_def = {
    "_find_and_load", (PyCFunction)(void (*)(void))cyad_import, METH_FASTCALL | METH_KEYWORDS, NULL};

static PyObject *cyad_make_import(PyObject *find_and_load)
{
    return PyCFunction_NewEx(&cyad_import_def, find_and_load, NULL);
}

#endif
