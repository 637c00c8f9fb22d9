"""Products with Hessians by sweeps of second order over one tape.

With g the gradient of f at x, H v = dg(x + t v)/dt at t = 0: every quantity of the reverse sweep is followed by its derivative
along v. So three passes after one recording:

1. memory is put back to what it was before the call, by the undo log;
2. forwards: the tangent of every value along v, and through memory the log of undone tangents, as for values;
3. backwards in two lanes: adjoints (lane 0), and their derivatives along v (lane 1).

What is linear pulls both lanes back alike, by the very code of the first order. An operation z = p(x, y) adds to lane 1 of x also
zbar (p_xx xdot + p_xy ydot): `cyad_partials2` of the same table gives that for numbers, `bend` for arrays, `Product` has the two
terms of a product. A tangent is kept where a value is: `Tape.second` has recordings refer to all that these terms read.

What has no second order here (linear algebra, custom rules, float32, complex numbers) makes the attempt None, and its caller nests
forward over reverse mode, which serves everything: 1.5 to 4 times the time for large arrays, 80 to 450 for element loops.
Written arguments are then as they were before.

Rejected: recording in dual numbers (every operation of the forward run pays, and one direction alone is served); forward over
reverse replay of the tape by Python.
"""
from cpython.float cimport PyFloat_CheckExact
from cpython.list cimport PyList_GET_ITEM
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from numpy cimport (
    NPY_DOUBLE, PyArray_DATA, PyArray_DIMS, PyArray_ISBEHAVED_RO, PyArray_ISCONTIGUOUS, PyArray_NDIM,
    PyArray_TYPE, import_array, ndarray, npy_intp,
)

from cyad._adjoint cimport (
    CLEAR, LOAD, NEED_SHIFT, NODE, OP_MASK, STORE, UNDO, VARIABLE, Adjoint, AdjointArray, Record, Tape, stored_buffer,
)
from cyad._context cimport is_float64, number
from cyad._elementwise cimport PushAll
from cyad._nodes cimport (
    CONSTANT, FREE, NONE, SLOT, AddAt, Elementwise, Extremum, Gather, Link, Matrix, Node, Operand, Product, Scatter,
    Store, Total, Undo, matrix_of, multiply, multiply_add, transposed, add_touched, untouched,
)
from cyad._redirect cimport current
from cyad._reverse cimport scalar_result
from cyad._shadow cimport Block, Buffer, View, broadcast_strides, may_overlap, new_block
from cyad.rules._kernels cimport (
    CYAD_OP_multiply, accumulate, copy_add, cyad_curved, cyad_has_partials, cyad_has_partials2, cyad_partials, cyad_partials2,
    cyad_strong,
)

import numpy as np

import_array()

cdef extern from "numpy/arrayobject.h":
    ndarray PyArray_ZEROS(int nd, npy_intp* dims, int typenum, int fortran)
    Py_ssize_t PyArray_NBYTES(ndarray arr)


def plain_curvature(f, leaves, directions, constants=(), names=(), bint scalars=False, bint gradient=True):
    """``(products, gradient, value)`` of a scalar function of float64 numbers and whole arrays, outside any other call.

    Calls ``f(*leaves, *constants)`` once. `directions` has, for each product that is wanted, a list with an array or number for
    each leaf; `products` has a list likewise, `gradient` is one such list (None if not wanted: large products then take less);
    `names` says what the constants are called. None where something has no second order here: then arguments that the
    function wrote are as they were. `scalars` asks for None, too, where most operations are on arrays, which
    many directions at once serve better. Errors of the function pass through. Thread safety: as `gradient`.
    """
    cdef Curvature run = Curvature.__new__(Curvature)
    run.wants_gradient = gradient
    if current() is not NULL or not all_plain_memory([*leaves, *constants], len(leaves)):
        return None
    return run.of(f, list(leaves), directions, list(constants), names, scalars)


cdef bint all_plain_memory(list values, Py_ssize_t leaves) except -1:
    """Whether arrays are whole, float64 where they are differentiated, and apart from each other."""
    cdef Py_ssize_t i, j
    cdef ndarray arr, other
    for i in range(len(values)):
        if not isinstance(values[i], ndarray):
            if i < leaves and not PyFloat_CheckExact(values[i]) and not is_float64(values[i]):
                return False
            continue
        arr = values[i]
        if type(values[i]) is not ndarray or PyArray_TYPE(arr) != NPY_DOUBLE or not PyArray_ISBEHAVED_RO(arr) or \
                not PyArray_ISCONTIGUOUS(arr):
            return False
        for j in range(i):
            if isinstance(values[j], ndarray):
                other = values[j]
                if PyArray_DATA(other) < <void*>(<char*>PyArray_DATA(arr) + PyArray_NBYTES(arr)) and \
                        PyArray_DATA(arr) < <void*>(<char*>PyArray_DATA(other) + PyArray_NBYTES(other)):
                    return False
    return True


cdef class Curvature:
    """One recording, and what its sweeps of second order work on."""

    cdef Tape tape
    cdef double* dots       # tangents of slots; of UNDO records, the tangent that the element had
    cdef list tangled       # buffers with a tangent
    cdef dict undone        # index of an Undo node -> the tangents that its region had
    cdef list inputs
    cdef bint wants_gradient

    def __dealloc__(self):
        free(self.dots)

    cdef object of(self, object f, list leaves, object directions, list constants, object names, bint scalars):
        cdef Tape tape = Tape.__new__(Tape, f)
        cdef AdjointArray array
        cdef object result, products = []
        self.tape = tape
        tape.second = True
        tape.originals = {}
        self.tangled = []
        self.inputs = []
        for i, a in enumerate([*leaves, *constants]):
            if not isinstance(a, ndarray):
                self.inputs.append(tape.scalar(a, True) if i < len(leaves) else a)
                continue
            array = tape.own_array(a)
            array.given = True
            array.place.buf.owner = a
            array.place.buf.active = i < len(leaves)
            tape.originals[array.place.buf] = None
            if i >= len(leaves):
                array.place.buf.constant = True
                array.place.buf.name = names[i - len(leaves)] if names else None
            self.inputs.append(array)
        try:
            result = tape.call(f, tuple(self.inputs), {})
            tape.alive = False
            if type(result) is not Adjoint or (<Adjoint>result).ctx is not tape:
                result = scalar_result(tape, f, result)
            value = number(result) if type(result) is Adjoint else result
            gradient = None
            for direction in directions:
                swept = None if scalars and 2 * len(tape.nodes) > tape.count else self.sweep(result, leaves, direction)
                if swept is None:
                    for buf, before in tape.originals.items():
                        if before is not None:
                            (<Buffer>buf).owner[...] = before
                    return None
                products.append(swept[0])
                gradient = swept[1] if self.wants_gradient else None
            return products, gradient, value
        finally:
            tape.close()

    cdef object sweep(self, object result, list leaves, object direction):
        """The product with one direction, and the gradient; None if the tape holds what has no second order here."""
        cdef Tape tape = self.tape
        cdef Buffer buf
        cdef Py_ssize_t i
        cdef uint32_t reached = tape.count
        cdef bint known
        cdef list lanes
        tape.start_sweep(2)
        try:
            free(self.dots)
            self.dots = <double*>calloc(<size_t>tape.count + 1, sizeof(double))
            if self.dots is NULL:
                raise MemoryError(f"cannot allocate {tape.count * 8} bytes of tangents")
            self.undone = {}
            lanes = [self.lend(i, leaves[i], direction[i]) for i in range(len(leaves))]
            for index in reversed(tape.undo):
                self.swap(<uint32_t>index)
            known = self.push(&reached)
            if not known:
                return None
            if type(result) is Adjoint and (<Adjoint>result).slot != NONE:
                tape.adjoints[2 * <size_t>(<Adjoint>result).slot] = 1.0
                self.pull()
            return [self.lane(i, lanes[i], 1) for i in range(len(leaves))], [self.lane(i, lanes[i], 0) for i in range(len(leaves))]
        finally:
            if reached < tape.count:
                tape.restore(reached)
            for buf in self.tangled:
                drop_tangent(buf)
            self.tangled = []
            for value in self.inputs[:len(leaves)]:
                if type(value) is AdjointArray:
                    (<AdjointArray>value).place.buf.borrowed_shadow = False
                    (<AdjointArray>value).place.buf.drop_shadow()
            tape.end_sweep()

    cdef object lend(self, Py_ssize_t i, object leaf, object direction):
        """Gives a leaf its tangent (a copy: the function may write) and two lanes of a shadow, which are returned."""
        cdef Buffer buf
        cdef ndarray shadow, source
        cdef npy_intp dims[65]
        cdef View v
        if type(self.inputs[i]) is Adjoint:
            self.dots[(<Adjoint>self.inputs[i]).slot] = <double>direction
            return None
        v = (<AdjointArray>self.inputs[i]).place
        buf = v.buf
        dims[0] = 2
        memcpy(dims + 1, PyArray_DIMS(<ndarray>leaf), PyArray_NDIM(<ndarray>leaf) * sizeof(npy_intp))
        shadow = PyArray_ZEROS(PyArray_NDIM(<ndarray>leaf) + 1, dims, NPY_DOUBLE, 0)
        source = np.ascontiguousarray(direction, dtype=np.float64)
        self.give(buf, False)
        memcpy(buf.tangent, PyArray_DATA(source), buf.nbytes)
        buf.shadow = <char*>PyArray_DATA(shadow)
        buf.shadow_owner = shadow
        buf.lane_bytes = buf.nbytes
        buf.borrowed_shadow = True
        return shadow

    cdef object lane(self, Py_ssize_t i, object shadow, int lane):
        if shadow is None:
            return self.tape.adjoints[2 * <size_t>(<Adjoint>self.inputs[i]).slot + lane] + 0.0
        return shadow[lane]

    cdef int give(self, Buffer buf, bint zero) except -1:
        buf.make_tangent(zero)
        self.tangled.append(buf)
        return 0

    cdef int swap(self, uint32_t index) except -1:
        """Trades memory with an undo record."""
        cdef Record* r = self.tape.records + index
        if r.op & OP_MASK == NODE:
            (<Node>PyList_GET_ITEM(self.tape.nodes, r.a)).swap(self.tape)
        else:
            self.tape.swap_element(r, r.op & OP_MASK)
        return 0

    # -- forwards: tangents ------------------------------------------------------------------------------------------

    cdef bint push(self, uint32_t* reached) except -1:
        """The tangent of every slot and buffer; False where something is not known here. `reached`: how far memory has got."""
        cdef Tape tape = self.tape
        cdef uint32_t i, op
        cdef Record* r
        cdef Record* records = tape.records
        cdef double* dots = self.dots
        cdef double* constants = tape.constants
        cdef double no_constant = 0.0, x, y, px = 0.0, py = 0.0, dot
        cdef int need
        cdef bint guarded
        cdef Buffer buf
        if constants is NULL:
            constants = &no_constant
        reached[0] = 0
        for i in range(tape.count):
            r = records + i
            op = r.op & OP_MASK
            reached[0] = i
            if op < VARIABLE:
                if not cyad_has_partials[op] or not cyad_has_partials2[op]:
                    return False
                need = r.op >> NEED_SHIFT
                guarded = tape.strong or cyad_strong[op]
                x = records[r.a].value if need & 1 else constants[r.a]
                y = records[r.b].value if need & 2 else constants[r.b]
                cyad_partials(op, need, x, y, r.value, &px, &py)
                dot = weighed(px, dots[r.a], guarded) if need & 1 else 0.0
                if need & 2:
                    dot += weighed(py, dots[r.b], guarded)
                dots[i] = dot
            elif op == LOAD:
                buf = <Buffer>PyList_GET_ITEM(tape.buffers, r.a)
                if buf.tangent is not NULL:
                    dots[i] = (<double*>buf.tangent)[r.b]
            elif op == STORE:
                buf = <Buffer>PyList_GET_ITEM(tape.buffers, stored_buffer(r))
                if buf.tangent is NULL:
                    self.give(buf, True)
                (<double*>buf.tangent)[r.b] = dots[r.a]
            elif op == CLEAR:
                buf = <Buffer>PyList_GET_ITEM(tape.buffers, r.a)
                if buf.tangent is not NULL:
                    (<double*>buf.tangent)[r.b] = 0.0
            elif op == UNDO:
                buf = <Buffer>PyList_GET_ITEM(tape.buffers, r.a)
                tape.swap_element(r, op)
                dots[i] = 0.0 if buf.tangent is NULL else (<double*>buf.tangent)[r.b]
            elif op == NODE:
                if not self.push_node(<Node>PyList_GET_ITEM(tape.nodes, r.a), r.a):
                    return False
            elif op != VARIABLE:
                return False
        reached[0] = tape.count
        return True

    cdef bint push_node(self, Node node, uint32_t index) except -1:
        if type(node) is Elementwise:
            return self.push_elementwise(<Elementwise>node)
        if type(node) is Store:
            return self.push_store(<Store>node)
        if type(node) is Total:
            return self.push_total(<Total>node)
        if type(node) is Product:
            return self.push_product(<Product>node)
        if type(node) is Extremum:
            return self.push_extremum(<Extremum>node)
        if type(node) is Undo:
            return self.push_undo(<Undo>node, index)
        return self.push_linear(node)

    cdef bint push_elementwise(self, Elementwise node) except -1:
        cdef View out = node.out
        cdef npy_intp xs[64]
        cdef npy_intp ys[64]
        cdef char* xp
        cdef char* yp
        cdef char* seed
        cdef bint assign = True
        cdef int k
        if out.typenum != NPY_DOUBLE or not cyad_has_partials2[node.row.op]:
            return False
        xp = operand_at(node.x, &node.xo, out, xs)
        yp = operand_at(node.y, &node.yo, out, ys)
        for k in range(node.row.nin):
            seed = self.tangent_at(&node.yo, node.y) if k else self.tangent_at(&node.xo, node.x)
            if seed is NULL:
                continue
            if assign:
                self.give(out.buf, False)
            if accumulate(node.row, k, 0, out.ndim, out.shape, xp, xs, yp, ys, out.buf.data + out.offset, out.strides,
                          seed, &ys[0] if k else &xs[0], 0, out.buf.tangent + out.offset, out.strides, 0, 1, assign,
                          self.tape.strong) < 0:
                return False
            assign = False
        return True

    cdef char* tangent_at(self, Operand* operand, View place) noexcept:
        """Where the tangent of an operand begins, NULL where it is zero; its strides are those of the operand."""
        if operand.role == SLOT:
            return <char*>(self.dots + operand.slot)
        if operand.role == CONSTANT or place.buf.tangent is NULL:
            return NULL
        return place.buf.tangent + place.offset

    cdef bint push_store(self, Store node) except -1:
        cdef View target = node.target, source = node.source
        cdef npy_intp strides[64]
        cdef char* seed = NULL
        cdef bint whole = target.is_whole()
        if target.typenum != NPY_DOUBLE:
            return False
        memset(strides, 0, target.ndim * sizeof(npy_intp))
        if source is not None:
            if may_overlap(target, source):
                return False   # what NumPy reads before it writes depends on more than the two places
            if source.buf.tangent is not NULL:
                seed = source.buf.tangent + source.offset
                if source.ndim <= target.ndim:
                    broadcast_strides(source, target.ndim, target.shape, strides)
                else:
                    memcpy(strides, source.strides + (source.ndim - target.ndim), target.ndim * sizeof(npy_intp))
        elif node.slot != NONE:
            seed = <char*>(self.dots + node.slot)
        if seed is NULL:
            if target.buf.tangent is not NULL:
                target.array_at(target.buf.tangent, target.buf.tangent_owner)[...] = 0.0
            return True
        if target.buf.tangent is NULL:
            self.give(target.buf, not whole)
        copy_add(0, target.ndim, target.shape, seed, strides, 0, target.buf.tangent + target.offset, target.strides, 0, 1, 1.0, 1)
        return True

    cdef bint push_total(self, Total node) except -1:
        cdef View x = node.x
        cdef npy_intp strides[64]
        cdef char* target
        if x.typenum != NPY_DOUBLE:
            return False
        if x.buf.tangent is NULL:
            return True
        spread_strides(x, node.out, node.reduced, node.keepdims, strides)
        if node.out is None:
            target = <char*>(self.dots + node.slot)
        else:
            self.give(node.out.buf, True)
            target = node.out.buf.tangent + node.out.offset
        copy_add(0, x.ndim, x.shape, x.buf.tangent + x.offset, x.strides, 0, target, strides, 0, 1, node.scale, 0)
        return True

    cdef bint push_product(self, Product node) except -1:
        """a_dot @ b + a @ b_dot"""
        cdef Matrix a, b, t
        cdef char* scratch
        cdef bint fresh
        cdef int k
        if node.a.typenum != NPY_DOUBLE:
            return False
        for k in range(2):
            if not (node.b_active and node.b.buf.tangent is not NULL if k else node.a_active and node.a.buf.tangent is not NULL):
                continue
            matrix_of(&a, node.a, node.a.buf.data if k else node.a.buf.tangent, True)
            matrix_of(&b, node.b, node.b.buf.tangent if k else node.b.buf.data, False)
            t.rows, t.columns = a.rows, b.columns
            fresh = node.out is not None and node.out.buf.tangent is NULL
            if node.out is None:
                t.data, t.down, t.along = <char*>(self.dots + node.slot), 8, 8
            else:
                if fresh:
                    self.give(node.out.buf, a.columns == 0)
                t.data = node.out.buf.tangent + node.out.offset
                t.down, t.along = node.out.strides[0], node.out.strides[node.out.ndim - 1]
            if a.columns == 0 or t.rows == 0 or t.columns == 0:
                continue
            if fresh:
                multiply(0, &a, &b, &t)
                continue
            scratch = <char*>malloc(t.rows * t.columns * 8)
            if scratch is NULL:
                raise MemoryError(f"cannot allocate {t.rows * t.columns * 8} bytes for a tangent")
            multiply_add(0, &a, &b, &t, scratch)
            free(scratch)
        return True

    cdef bint push_extremum(self, Extremum node) except -1:
        """The mean of the tangents of the entries that won."""
        cdef View x = node.x
        if x.typenum != NPY_DOUBLE:
            return False
        if x.buf.tangent is NULL:
            return True
        axes = tuple([i for i in range(x.ndim) if (node.reduced >> i) & 1])
        values = x.primal()
        best = node.value if node.out is None else node.out.primal()
        if node.out is not None and not node.keepdims:
            best = np.expand_dims(best, axes)
        wins = np.equal(values, best) | (np.not_equal(best, best) & np.not_equal(values, values))
        tangent = np.where(wins, x.array_at(x.buf.tangent, x.buf.tangent_owner), 0.0).sum(axis=axes) / wins.sum(axis=axes)
        if node.out is None:
            self.dots[node.slot] = tangent
        else:
            self.put(node.out, tangent.reshape(node.out.shape_tuple()))
        return True

    cdef int put(self, View target, object tangent) except -1:
        if target.buf.tangent is NULL:
            self.give(target.buf, not target.is_whole())
        target.array_at(target.buf.tangent, target.buf.tangent_owner)[...] = tangent
        return 0

    cdef bint push_undo(self, Undo node, uint32_t index) except -1:
        """Remembers the tangents that are about to be overwritten."""
        if node.prim is not None or node.region.typenum != NPY_DOUBLE:
            return False
        node.swap(self.tape)
        if node.region.buf.tangent is not NULL:
            region = node.region.array_at(node.region.buf.tangent, node.region.buf.tangent_owner)
            self.undone[index] = region.copy() if node.key is None else region[node.key].copy()
        return True

    cdef bint push_linear(self, Node node) except -1:
        """Nodes that are linear in what they read: tangents go as values went."""
        cdef View target, source
        if type(node) is Gather:
            source, target = (<Gather>node).source, (<Gather>node).out
            if source.typenum != NPY_DOUBLE:
                return False
            if source.buf.tangent is not NULL:
                self.put(target, source.array_at(source.buf.tangent, source.buf.tangent_owner)[(<Gather>node).key])
            return True
        if type(node) is Scatter:
            target = (<Scatter>node).target
            if target.typenum != NPY_DOUBLE or not is_double((<Scatter>node).source):
                return False
            tangent = self.tangent_of((<Scatter>node).source)
            if tangent is not None or target.buf.tangent is not NULL:
                if target.buf.tangent is NULL:
                    self.give(target.buf, True)
                target.array_at(target.buf.tangent, target.buf.tangent_owner)[(<Scatter>node).key] = \
                    0.0 if tangent is None else tangent
            return True
        if type(node) is AddAt:
            target = (<AddAt>node).target
            if target.typenum != NPY_DOUBLE or not is_double((<AddAt>node).source):
                return False
            tangent = self.tangent_of((<AddAt>node).source)
            if tangent is not None:
                if target.buf.tangent is NULL:
                    self.give(target.buf, True)
                np.add.at(target.array_at(target.buf.tangent, target.buf.tangent_owner), (<AddAt>node).key, tangent)
            return True
        return type(node) is Link and self.push_link(<Link>node)

    cdef object tangent_of(self, object place):
        """The tangent of a view or slot, as an array or number; None where it is zero."""
        if place is None or type(place) is int and place == FREE:
            return None
        if type(place) is int:
            return self.dots[<size_t>place]
        if (<View>place).buf.tangent is NULL:
            return None
        return (<View>place).array_at((<View>place).buf.tangent, (<View>place).buf.tangent_owner)

    cdef bint push_link(self, Link node) except -1:
        cdef object total = None
        if node.pushes is None or not all([is_double(place) for place in [*node.operands, *node.outs]]):
            return False
        tangents = [self.tangent_of(place) for place in node.operands]
        if type(node.pushes) is PushAll:
            total = (<PushAll>node.pushes).apply(tangents)
        else:
            for push, tangent in zip(node.pushes, tangents):
                if tangent is None:
                    continue
                c = push(tangent)
                if total is None:
                    total = c
                elif type(total) is tuple or type(total) is list:
                    total = [a + b for a, b in zip(total, c)]
                else:
                    total = total + c
        if total is None:
            return True
        for place, c in zip(node.outs, total if len(node.outs) > 1 or type(total) is tuple else [total]):
            if type(place) is not int:
                self.put(<View>place, c)
            elif place != FREE:
                self.dots[<size_t>place] = c
        return True

    # -- backwards: adjoints and their derivatives ---------------------------------------------------------------------

    cdef int pull(self) except -1:
        cdef Tape tape = self.tape
        cdef uint32_t i = tape.count, op
        cdef Record* r
        cdef Record* records = tape.records
        cdef double* adjoints = tape.adjoints
        cdef double* dots = self.dots
        cdef double* constants = tape.constants
        cdef double no_constant = 0.0, x, y, px = 0.0, py = 0.0, pxx, pxy, pyy, g, h, bend
        cdef int need
        cdef bint guarded
        cdef Buffer buf
        cdef double* shadow
        if constants is NULL:
            constants = &no_constant
        try:
            while i > 0:
                i -= 1
                r = records + i
                op = r.op & OP_MASK
                g = adjoints[2 * <size_t>i]
                h = adjoints[2 * <size_t>i + 1]
                if op < VARIABLE:
                    if untouched(adjoints + 2 * <size_t>i, 2):
                        continue
                    guarded = tape.strong or cyad_strong[op]
                    need = r.op >> NEED_SHIFT
                    x = records[r.a].value if need & 1 else constants[r.a]
                    y = records[r.b].value if need & 2 else constants[r.b]
                    cyad_partials(op, need, x, y, r.value, &px, &py)
                    if need & 1:
                        adjoints[2 * <size_t>r.a] += weighed(px, g, guarded)
                        adjoints[2 * <size_t>r.a + 1] += weighed(px, h, guarded)
                    if need & 2:
                        adjoints[2 * <size_t>r.b] += weighed(py, g, guarded)
                        adjoints[2 * <size_t>r.b + 1] += weighed(py, h, guarded)
                    if op == CYAD_OP_multiply:
                        if need == 3:
                            adjoints[2 * <size_t>r.a + 1] += g * dots[r.b]
                            adjoints[2 * <size_t>r.b + 1] += g * dots[r.a]
                    elif cyad_curved[op] & curved_for(need):
                        cyad_partials2(op, need, x, y, r.value, &pxx, &pxy, &pyy)
                        if need & 1:
                            bend = weighed(pxx, dots[r.a], guarded)
                            if need & 2:
                                bend += weighed(pxy, dots[r.b], guarded)
                            adjoints[2 * <size_t>r.a + 1] += weighed(bend, g, guarded)
                        if need & 2:
                            bend = weighed(pyy, dots[r.b], guarded)
                            if need & 1:
                                bend += weighed(pxy, dots[r.a], guarded)
                            adjoints[2 * <size_t>r.b + 1] += weighed(bend, g, guarded)
                elif op == LOAD:
                    buf = <Buffer>PyList_GET_ITEM(tape.buffers, r.a)
                    if buf.shadow is NULL:
                        tape.give_shadow(buf, True)
                    (<double*>buf.shadow)[r.b] += g
                    (<double*>(buf.shadow + buf.lane_bytes))[r.b] += h
                elif op == STORE:
                    buf = <Buffer>PyList_GET_ITEM(tape.buffers, stored_buffer(r))
                    if buf.shadow is not NULL:
                        shadow = <double*>buf.shadow + r.b
                        add_touched(adjoints + 2 * <size_t>r.a, shadow[0])
                        shadow[0] = 0.0
                        shadow = <double*>(buf.shadow + buf.lane_bytes) + r.b
                        add_touched(adjoints + 2 * <size_t>r.a + 1, shadow[0])
                        shadow[0] = 0.0
                elif op == CLEAR:
                    buf = <Buffer>PyList_GET_ITEM(tape.buffers, r.a)
                    if buf.shadow is not NULL:
                        (<double*>buf.shadow)[r.b] = 0.0
                        (<double*>(buf.shadow + buf.lane_bytes))[r.b] = 0.0
                elif op == UNDO:
                    buf = <Buffer>PyList_GET_ITEM(tape.buffers, r.a)
                    tape.swap_element(r, op)
                    if buf.tangent is not NULL:
                        (<double*>buf.tangent)[r.b] = dots[i]
                elif op == NODE:
                    self.pull_node(<Node>PyList_GET_ITEM(tape.nodes, r.a), r.a)
        finally:
            if tape.quiet is not None:
                tape.quiet.__exit__(None, None, None)
                tape.quiet = None
            tape.restore(i)
        return 0

    cdef int pull_node(self, Node node, uint32_t index) except -1:
        cdef View region
        if type(node) is Elementwise:
            return self.pull_elementwise(<Elementwise>node)
        if type(node) is Product:
            return self.pull_product(<Product>node)
        node.pullback(self.tape)
        if type(node) is Total:
            if (<Total>node).out is not None:
                drop_tangent((<Total>node).out.buf)
        elif type(node) is Undo:
            region = (<Undo>node).region
            if region.buf.tangent is not NULL:
                region.array_at(region.buf.tangent, region.buf.tangent_owner)[
                    Ellipsis if (<Undo>node).key is None else (<Undo>node).key] = self.undone.get(index, 0.0)
        return 0

    cdef int pull_elementwise(self, Elementwise node) except -1:
        """The bent part is worked out first, because the shadow of out may become that of an operand, and added last."""
        cdef View out = node.out
        cdef int need = (node.xo.role != CONSTANT) | (node.yo.role != CONSTANT) << 1
        cdef Block bent
        cdef char* second
        if out.buf.shadow is NULL:
            drop_tangent(out.buf)
            return 0
        if not cyad_curved[node.row.op] & curved_for(need):
            node.pullback(self.tape)
            drop_tangent(out.buf)
            return 0
        bent = new_block(out.size * 8 * (2 if need == 3 else 1), False)
        second = bent.data + (out.size * 8 if need == 3 else 0)   # where the half of the second operand begins
        self.bend_elementwise(node, need, <double*>bent.data, <double*>second)
        node.pullback(self.tape)
        self.add_bent(&node.xo, node.x, out, bent.data)
        self.add_bent(&node.yo, node.y, out, second)
        drop_tangent(out.buf)
        return 0

    cdef int bend_elementwise(self, Elementwise node, int need, double* first, double* second) except -1:
        cdef View out = node.out
        cdef npy_intp xs[64]
        cdef npy_intp ys[64]
        cdef npy_intp xts[64]
        cdef npy_intp yts[64]
        cdef Bend b
        b.op, b.need, b.first, b.second = node.row.op, need, first, second
        b.guarded = self.tape.strong or cyad_strong[b.op]
        b.x, b.y = operand_at(node.x, &node.xo, out, xs), operand_at(node.y, &node.yo, out, ys)
        b.xt, b.yt = self.tangent_at(&node.xo, node.x), self.tangent_at(&node.yo, node.y)
        memcpy(xts, xs, out.ndim * sizeof(npy_intp))
        memcpy(yts, ys, out.ndim * sizeof(npy_intp))
        b.zero = 0.0
        if b.xt is NULL:
            b.xt = <char*>&b.zero
            memset(xts, 0, out.ndim * sizeof(npy_intp))
        if b.yt is NULL:
            b.yt = <char*>&b.zero
            memset(yts, 0, out.ndim * sizeof(npy_intp))
        bend(&b, out.ndim, out.shape, b.x, xs, b.y, ys, out.buf.data + out.offset, out.buf.shadow + out.offset, out.strides,
             b.xt, xts, b.yt, yts)
        return 0

    cdef int add_bent(self, Operand* operand, View place, View out, char* bent) except -1:
        """Adds to lane 1 of an operand what its shape as the result's has collected."""
        cdef npy_intp from_strides[64]
        cdef npy_intp to_strides[64]
        cdef npy_intp step = 8
        cdef char* target
        cdef int i
        if operand.role == CONSTANT:
            return 0
        for i in range(out.ndim - 1, -1, -1):
            from_strides[i] = step
            step *= out.shape[i]
        if operand.role == SLOT:
            memset(to_strides, 0, out.ndim * sizeof(npy_intp))
            target = <char*>(self.tape.adjoints + 2 * <size_t>operand.slot + 1)
        else:
            broadcast_strides(place, out.ndim, out.shape, to_strides)
            target = place.buf.shadow + place.buf.lane_bytes + place.offset
        copy_add(0, out.ndim, out.shape, bent, from_strides, 0, target, to_strides, 0, 1, 1.0, 0)
        return 0

    cdef int first_lane(self, Buffer buf) noexcept:
        """1 for an argument that nobody wants the gradient of, and whose adjoint nothing else needs: it was never written."""
        return not self.wants_gradient and buf.borrowed_shadow and not buf.written

    cdef int pull_product(self, Product node) except -1:
        """Lane 1 gets g @ b_dot^T and a_dot^T @ g besides what both lanes get."""
        cdef Matrix a, b, g, t, left, right
        cdef char* first = NULL
        cdef char* second = NULL
        cdef double seed
        if node.out is not None and node.out.buf.shadow is NULL:
            drop_tangent(node.out.buf)
            return 0
        if node.out is None and untouched(self.tape.adjoints + 2 * <size_t>node.slot, 2):
            return 0
        matrix_of(&a, node.a, node.a.buf.data, True)
        matrix_of(&b, node.b, node.b.buf.data, False)
        g.rows, g.columns, g.down, g.along = a.rows, b.columns, 0, 0
        try:
            if node.a_active and node.b_active and a.columns > 0 and g.rows > 0 and g.columns > 0:
                if node.out is None:
                    seed = self.tape.adjoints[2 * <size_t>node.slot]
                    g.data, g.down, g.along = <char*>&seed, 8, 8
                else:
                    node.cotangent(&g, 0)
                if node.b.buf.tangent is not NULL:
                    right = b
                    right.data = node.b.buf.tangent + node.b.offset
                    right = transposed(right)
                    first = new_product(&g, &right)
                if node.a.buf.tangent is not NULL:
                    left = a
                    left.data = node.a.buf.tangent + node.a.offset
                    left = transposed(left)
                    second = new_product(&left, &g)
            if node.a_active:
                node.pull(self.tape, 0, &a, &b, &g, self.first_lane(node.a.buf))
            if node.b_active:
                node.pull(self.tape, 1, &a, &b, &g, self.first_lane(node.b.buf))
            if node.out is not None:
                node.out.buf.drop_shadow()
            if first is not NULL:
                matrix_of(&t, node.a, node.a.buf.shadow + node.a.buf.lane_bytes, True)
                add_matrix(&t, first)
            if second is not NULL:
                matrix_of(&t, node.b, node.b.buf.shadow + node.b.buf.lane_bytes, False)
                add_matrix(&t, second)
        finally:
            free(first)
            free(second)
        if node.out is not None:
            drop_tangent(node.out.buf)
        return 0


# ---- small parts -----------------------------------------------------------------------------------------------------

cdef inline double weighed(double partial, double t, bint guarded) noexcept:
    """A tangent or cotangent times a partial; of a guarded operation, one of zero contributes nothing, whatever the partial."""
    cdef double c = partial * t
    return 0.0 if c != c and guarded and t == 0.0 else c


cdef inline int curved_for(int need) noexcept:
    """The second partials that matter when these operands are active, as bits of `cyad_curved`."""
    return (need & 1) | (2 if need == 3 else 0) | (need & 2) << 1


cdef void drop_tangent(Buffer buf) noexcept:
    buf.tangent = NULL
    buf.tangent_owner = None


cdef bint is_double(object place) except -1:
    """Whether a place is a slot, or a view of float64 memory."""
    return place is None or type(place) is int or (<View>place).typenum == NPY_DOUBLE


cdef char* operand_at(View place, Operand* operand, View out, npy_intp* strides) noexcept:
    """Where the values of an operand begin, and its strides broadcast to the result."""
    if place is None:
        memset(strides, 0, out.ndim * sizeof(npy_intp))
        return <char*>&operand.number
    broadcast_strides(place, out.ndim, out.shape, strides)
    return place.buf.data + place.offset


cdef void spread_strides(View x, View out, uint64_t reduced, bint keepdims, npy_intp* strides) noexcept:
    """The strides of a reduction's result along the axes of what was reduced."""
    cdef int i, j = 0
    for i in range(x.ndim):
        if (reduced >> i) & 1:
            strides[i] = 0
            j += keepdims
        else:
            strides[i] = out.strides[j]
            j += 1


cdef char* new_product(Matrix* x, Matrix* y) except NULL:
    """x @ y in memory of its own, rows one after the other."""
    cdef Matrix out
    out.rows, out.columns, out.down, out.along = x.rows, y.columns, 8 * y.columns, 8
    out.data = <char*>malloc(out.rows * out.columns * 8)
    if out.data is NULL:
        raise MemoryError(f"cannot allocate {out.rows * out.columns * 8} bytes for a cotangent")
    multiply(0, x, y, &out)
    return out.data


cdef void add_matrix(Matrix* target, char* source) noexcept:
    cdef npy_intp shape[2]
    cdef npy_intp from_strides[2]
    cdef npy_intp to_strides[2]
    shape[0], shape[1] = target.rows, target.columns
    from_strides[0], from_strides[1] = 8 * target.columns, 8
    to_strides[0], to_strides[1] = target.down, target.along
    copy_add(0, 2, shape, source, from_strides, 0, target.data, to_strides, 0, 1, 1.0, 0)


cdef struct Bend:
    int op
    int need
    bint guarded
    double zero
    double* first
    double* second
    char* x
    char* y
    char* xt
    char* yt


cdef void bend(Bend* b, int ndim, npy_intp* shape, char* x, npy_intp* xs, char* y, npy_intp* ys, char* o, char* g, npy_intp* os,
               char* xt, npy_intp* xts, char* yt, npy_intp* yts) noexcept:
    """first = g (p_xx xt + p_xy yt), second = g (p_xy xt + p_yy yt), as far as they are needed; o and g lie alike."""
    cdef npy_intp i, n = shape[0] if ndim else 1
    cdef npy_intp step[5]
    cdef bint guarded = b.guarded
    cdef double pxx, pxy, pyy, dx, dy, z
    if ndim > 1:
        for i in range(n):
            bend(b, ndim - 1, shape + 1, x + i * xs[0], xs + 1, y + i * ys[0], ys + 1, o + i * os[0], g + i * os[0], os + 1,
                 xt + i * xts[0], xts + 1, yt + i * yts[0], yts + 1)
        return
    memset(step, 0, sizeof(step))
    if ndim:
        step[0], step[1], step[2], step[3], step[4] = xs[0], ys[0], os[0], xts[0], yts[0]
    if b.op == CYAD_OP_multiply:
        for i in range(n):
            z = (<double*>(g + i * step[2]))[0]
            b.first[i] = z * (<double*>(yt + i * step[4]))[0]
            b.second[i] = z * (<double*>(xt + i * step[3]))[0]
    else:
        for i in range(n):
            z = (<double*>(g + i * step[2]))[0]
            dx = (<double*>(xt + i * step[3]))[0]
            dy = (<double*>(yt + i * step[4]))[0]
            cyad_partials2(b.op, b.need, (<double*>(x + i * step[0]))[0], (<double*>(y + i * step[1]))[0],
                           (<double*>(o + i * step[2]))[0], &pxx, &pxy, &pyy)
            if b.need & 1:
                b.first[i] = weighed(weighed(pxx, dx, guarded) + weighed(pxy, dy, guarded), z, guarded)
            if b.need & 2:
                b.second[i] = weighed(weighed(pxy, dx, guarded) + weighed(pyy, dy, guarded), z, guarded)
    b.first += n
    b.second += n
