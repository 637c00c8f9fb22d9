/* Making and freeing the scalars of both modes.
 *
 * Every operation on scalars makes one object, so its allocation is most of its cost. Cython's freelist initialises an
 * object anew (two calls into libpython, some 50 instructions); this one hands out objects that need only their fields
 * set. It relies on the GIL; on interpreters without one nothing is kept.
 *
 * cyad_scalar is the layout of Adjoint and the head of Dual; the sizes are compared when the types are installed.
 */
#ifndef CYAD_SCALARS_H
#define CYAD_SCALARS_H

#include <Python.h>
#include <stdint.h>
#include <stdlib.h>

#ifdef Py_GIL_DISABLED
#define CYAD_KEPT 0
#else
#define CYAD_KEPT 1024
#endif

typedef struct {
    PyObject_HEAD
    PyObject *ctx;
    double value;
    int kind;
    uint32_t slot;   /* Adjoint: the slot on the tape. Dual: the number of lanes. */
} cyad_scalar;

/* Declared by the including module: releases what the type holds beyond the head. */
static void cyad_release(PyObject *self);

static PyObject *cyad_kept[CYAD_KEPT + 1];
static int cyad_kept_count = 0;

static inline PyObject *cyad_new_scalar(PyObject *type, PyObject *ctx, double value, int kind, uint32_t slot)
{
    cyad_scalar *self;
    if (cyad_kept_count) {
        self = (cyad_scalar *)cyad_kept[--cyad_kept_count];
        Py_SET_REFCNT((PyObject *)self, 1);
    } else {
        self = (cyad_scalar *)((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, 0);
        if (!self)
            return NULL;
    }
    Py_INCREF(ctx);
    self->ctx = ctx;
    self->value = value;
    self->kind = kind;
    self->slot = slot;
    return (PyObject *)self;
}

static void cyad_dealloc_scalar(PyObject *self)
{
    PyObject *ctx = ((cyad_scalar *)self)->ctx;
    cyad_release(self);
    ((cyad_scalar *)self)->ctx = NULL;
    if (cyad_kept_count < CYAD_KEPT)
        cyad_kept[cyad_kept_count++] = self;
    else
        Py_TYPE(self)->tp_free(self);
    Py_XDECREF(ctx);
}

/* Returns 0 if the type is not laid out as expected; it then keeps Cython's way of freeing. */
static int cyad_install_scalar(PyObject *type, size_t size)
{
    PyTypeObject *t = (PyTypeObject *)type;
    if ((size_t)t->tp_basicsize < size || size < sizeof(cyad_scalar) || (t->tp_flags & (Py_TPFLAGS_HEAPTYPE | Py_TPFLAGS_HAVE_GC)))
        return 0;
    t->tp_dealloc = cyad_dealloc_scalar;
    return 1;
}

#endif
