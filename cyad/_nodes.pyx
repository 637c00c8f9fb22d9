"""Nodes of the tape: operations on arrays, each an object behind one record.

A node says how its operation is transposed: `pullback` takes the shadow of what was computed and adds to the shadows of what it was
computed from. Views say where shadows are (`_shadow`); scalars have a slot in the table of adjoints. One lane after the other
where NumPy does the work, all at once where our loops do.

`Recording` is all that a node knows of the tape; the tape knows every node.
"""
cimport cython
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from numpy cimport NPY_FLOAT, import_array, ndarray, npy_intp

from cyad._context cimport Context, add_to_lane, ensure_lanes, finite_only, is_zero_seed, lane_of, plain_value
from cyad._elementwise cimport NO_GIL_FROM
from cyad._shadow cimport Buffer, View, broadcast_strides, may_overlap
from cyad.rules._kernels cimport Row, accumulate, copy_add, multiply_matrices

import numpy as np

from cyad._tracked import Into
from cyad.rules._kernels import rows_by_name

import_array()

cdef extern from "numpy/arrayobject.h":
    int PyArray_FillWithScalar(ndarray arr, object value) except -1

cdef Row MULTIPLY = rows_by_name["multiply"]

cdef class Recording(Context):
    """What a sweep works on: adjoints of scalars, the buffers that were given shadows."""

    cdef int give_shadow(self, Buffer buf, bint zero) except -1:
        buf.make_shadow(self.width, zero)
        self.shadowed.append(buf)
        return 0

    cdef int hush(self) except -1:
        """For the rest of the sweep NumPy warns of nothing: the plain run knows no derivatives, and cannot warn of them."""
        if self.quiet is None:
            quiet = np.errstate(all="ignore")
            quiet.__enter__()
            self.quiet = quiet
        return 0


cdef class Node:
    """An operation on arrays, behind one record."""

    cdef int pullback(self, Recording tape) except -1:
        raise NotImplementedError("a node of no operation")

    cdef int swap(self, Recording tape) except -1:
        return 0


@cython.final
@cython.no_gc
cdef class Elementwise(Node):
    """A row of the table over float64 or float32 memory, one dtype throughout."""

    cdef int pullback(self, Recording tape) except -1:
        cdef npy_intp xs[64]
        cdef npy_intp ys[64]
        cdef View out = self.out
        cdef int ndim = out.ndim, single = out.typenum == NPY_FLOAT
        cdef float x32, y32
        cdef char* xp
        cdef char* yp = NULL
        cdef char* op = out.buf.data + out.offset
        cdef int heir = -1
        cdef View heiress
        if out.buf.shadow is NULL:
            return 0
        if self.x is not None:
            broadcast_strides(self.x, ndim, out.shape, xs)
            xp = self.x.buf.data + self.x.offset
        else:
            memset(xs, 0, ndim * sizeof(npy_intp))
            x32 = <float>self.xo.number
            xp = <char*>&x32 if single else <char*>&self.xo.number
        if self.row.nin == 2:
            if self.y is not None:
                broadcast_strides(self.y, ndim, out.shape, ys)
                yp = self.y.buf.data + self.y.offset
            else:
                memset(ys, 0, ndim * sizeof(npy_intp))
                y32 = <float>self.yo.number
                yp = <char*>&y32 if single else <char*>&self.yo.number
        # An operand that has no shadow yet can take over the memory of out's, if it comes last.
        if self.inherits(&self.xo, self.x):
            heir = 0
        elif self.row.nin == 2 and self.inherits(&self.yo, self.y):
            heir = 1
        if self.xo.role != CONSTANT and heir != 0:
            self.pull(tape, 0, &self.xo, self.x, xs, xp, xs, yp, ys, op)
        if self.row.nin == 2 and self.yo.role != CONSTANT and heir != 1:
            self.pull(tape, 1, &self.yo, self.y, ys, xp, xs, yp, ys, op)
        if heir >= 0:
            heiress = self.y if heir else self.x
            if heiress.buf.shadow is not NULL:
                # The other operand shares the buffer, and gave it a shadow just now.
                self.pull(tape, heir, &self.yo if heir else &self.xo, heiress, &ys[0] if heir else &xs[0], xp, xs, yp, ys, op)
            else:
                if not (self.row.identity >> heir) & 1:
                    accumulate(self.row, heir, single, ndim, out.shape, xp, xs, yp, ys, op, out.strides,
                               out.buf.shadow + out.offset, out.strides, out.buf.lane_bytes,
                               out.buf.shadow + out.offset, out.strides, out.buf.lane_bytes, tape.width, 1, tape.strong)
                hand_over(tape, out.buf, heiress.buf)
        out.buf.drop_shadow()
        return 0

    cdef bint inherits(self, Operand* operand, View target) noexcept:
        """Whether the shadow of out can become that of the operand: both whole, of one shape, and the latter not there yet."""
        cdef View out = self.out
        cdef int i
        if operand.role != ACTIVE or target.buf.shadow is not NULL or target.ndim != out.ndim or not target.is_whole() \
                or not out.is_whole() or out.buf.borrowed_shadow or target.buf.borrowed_shadow:
            return False
        for i in range(out.ndim):
            if out.shape[i] != target.shape[i]:
                return False
        return True

    cdef int pull(self, Recording tape, int k, Operand* operand, View target, npy_intp* ts, char* xp, npy_intp* xs,
                  char* yp, npy_intp* ys, char* op) except -1:
        """Adds the cotangent of operand k: from the shadow of out, to that of the operand or to its adjoint."""
        cdef View out = self.out
        cdef Buffer buf
        cdef bint assign = False
        cdef int i, lane, single = out.typenum == NPY_FLOAT
        cdef float sum32
        if operand.role == SLOT:
            for lane in range(tape.width):
                if not single:
                    accumulate(self.row, k, 0, out.ndim, out.shape, xp, xs, yp, ys, op, out.strides,
                               out.buf.shadow + lane * out.buf.lane_bytes + out.offset, out.strides, 0,
                               <char*>(tape.adjoints + <size_t>operand.slot * tape.width + lane), ts, 0, 1, 0, tape.strong)
                    continue
                sum32 = 0.0
                accumulate(self.row, k, 1, out.ndim, out.shape, xp, xs, yp, ys, op, out.strides,
                           out.buf.shadow + lane * out.buf.lane_bytes + out.offset, out.strides, 0,
                           <char*>&sum32, ts, 0, 1, 0, tape.strong)
                tape.adjoints[<size_t>operand.slot * tape.width + lane] += sum32
            return 0
        buf = target.buf
        if buf.shadow is NULL:
            assign = target.is_whole() and target.size == out.size and target.ndim == out.ndim
            tape.give_shadow(buf, not assign)
        accumulate(self.row, k, single, out.ndim, out.shape, xp, xs, yp, ys, op, out.strides,
                   out.buf.shadow + out.offset, out.strides, out.buf.lane_bytes,
                   buf.shadow + target.offset, ts, buf.lane_bytes, tape.width, assign, tape.strong)
        return 0


@cython.final
@cython.no_gc
cdef class Store(Node):
    """`target[...] = source` within float memory of one dtype: the shadow moves from target to source (None: a constant)."""

    cdef int pullback(self, Recording tape) except -1:
        cdef View target = self.target, source = self.source
        cdef npy_intp ts[64]
        cdef npy_intp gs[64]
        cdef int lane, i, single = target.typenum == NPY_FLOAT
        cdef bint assign = False
        cdef char* g
        cdef char* copied = NULL
        cdef Py_ssize_t lane_bytes = target.buf.lane_bytes, step
        cdef float sum32
        cdef Buffer buf
        if target.buf.shadow is NULL:
            return 0
        if source is not None:
            buf = source.buf
            if buf.shadow is NULL and target.is_whole() and source.is_whole() and target.size == source.size \
                    and not target.buf.borrowed_shadow and not buf.borrowed_shadow:
                hand_over(tape, target.buf, buf)
                return 0
            g = target.buf.shadow + target.offset
            memcpy(gs, target.strides, target.ndim * sizeof(npy_intp))
            if copied_in_turn(target, source):
                self.pull_in_turn(tape)
                return 0
            if may_overlap(target, source):
                # What is taken out must not see what is put in.
                step = single * 4 + (1 - single) * 8
                lane_bytes = target.size * step
                copied = <char*>malloc(lane_bytes * tape.width + 8)
                if copied is NULL:
                    raise MemoryError()
                for i in range(target.ndim - 1, -1, -1):
                    gs[i] = step
                    step *= target.shape[i]
                copy_add(single, target.ndim, target.shape, g, target.strides, target.buf.lane_bytes, copied, gs,
                         lane_bytes, tape.width, 1.0, 1)
                g = copied
                self.clear_lanes(tape)
            if buf.shadow is NULL:
                assign = source.is_whole() and source.size == target.size
                tape.give_shadow(buf, not assign)
            # The source was broadcast to the target: broadcasting is transposed by summation.
            if source.ndim <= target.ndim:
                broadcast_strides(source, target.ndim, target.shape, ts)
                copy_add(single, target.ndim, target.shape, g, gs, lane_bytes, buf.shadow + source.offset, ts,
                         buf.lane_bytes, tape.width, 1.0, assign and source.size == target.size)
            else:
                # NumPy drops leading axes of length one in an assignment.
                copy_add(single, target.ndim, target.shape, g, gs, lane_bytes, buf.shadow + source.offset,
                         source.strides + (source.ndim - target.ndim), buf.lane_bytes, tape.width, 1.0, assign)
            if copied is not NULL:
                free(copied)
                return 0
        elif self.slot != NONE:
            memset(ts, 0, target.ndim * sizeof(npy_intp))
            for lane in range(tape.width):
                g = target.buf.shadow + lane * lane_bytes + target.offset
                if single:
                    sum32 = 0.0
                    copy_add(1, target.ndim, target.shape, g, target.strides, 0, <char*>&sum32, ts, 0, 1, 1.0, 0)
                    tape.adjoints[<size_t>self.slot * tape.width + lane] += sum32
                else:
                    copy_add(0, target.ndim, target.shape, g, target.strides, 0,
                             <char*>(tape.adjoints + <size_t>self.slot * tape.width + lane), ts, 0, 1, 1.0, 0)
        if target.is_whole() and not target.buf.borrowed_shadow:
            target.buf.drop_shadow()
        else:
            self.clear_lanes(tape)
        return 0

    cdef int pull_in_turn(self, Recording tape) noexcept:
        """The transpose of a copy element by element: the same moves backwards."""
        cdef View target = self.target, source = self.source
        cdef npy_intp n = target.shape[0], step = source_step(source), i, k
        cdef int lane
        cdef bint back = copied_backwards(target, source)
        cdef char* base
        cdef char* t
        cdef char* s
        for lane in range(tape.width):
            base = target.buf.shadow + lane * target.buf.lane_bytes
            for k in range(n):
                i = k if back else n - 1 - k
                t = base + target.offset + i * target.strides[0]
                s = base + source.offset + i * step
                if t == s:
                    continue
                if target.typenum == NPY_FLOAT:
                    (<float*>s)[0] += (<float*>t)[0]
                    (<float*>t)[0] = 0.0
                else:
                    (<double*>s)[0] += (<double*>t)[0]
                    (<double*>t)[0] = 0.0
        return 0

    cdef int clear_lanes(self, Recording tape) except -1:
        cdef int lane
        for lane in range(tape.width):
            clear_region(self.target, self.target.buf.shadow + lane * self.target.buf.lane_bytes, self.target.buf.shadow_owner)
        return 0


cdef int hand_over(Recording tape, Buffer giver, Buffer taker) except -1:
    """The shadow of one buffer becomes that of another of the same size; the first has none then."""
    taker.shadow = giver.shadow
    taker.shadow_owner = giver.shadow_owner
    taker.lane_bytes = giver.lane_bytes
    tape.shadowed.append(taker)
    giver.drop_shadow()
    return 0


cdef bint copied_in_turn(View target, View source) noexcept:
    """Whether NumPy's assignment copies element by element although the views overlap.

    It does where the target has one axis and both step in one direction, and trusts that an order exists in which nothing is
    overwritten before it is read. With different steps there may be none: values then move twice, and so must adjoints.
    """
    return target.ndim == 1 and source.ndim > 0 and target.shape[0] > 1 and may_overlap(target, source) and \
        source_step(source) != target.strides[0] and (source_step(source) >= 0) == (target.strides[0] >= 0)


cdef inline npy_intp source_step(View source) noexcept:
    return source.strides[source.ndim - 1] if source.shape[source.ndim - 1] > 1 else 0


cdef inline bint copied_backwards(View target, View source) noexcept:
    """The order of that copy. NumPy flips both views to make the target's step positive, then asks which one begins first."""
    cdef npy_intp n = target.shape[0], step = source_step(source), begin = source.offset, first = target.offset
    cdef bint flipped = target.strides[0] < 0
    if flipped:
        first += (n - 1) * target.strides[0]
        begin += (n - 1) * step
        step = -step
    return flipped != (begin < first and begin + n * step > first)


cdef int clear_region(View v, char* base, object owner) except -1:
    if v.contiguous:
        memset(base + v.offset, 0, v.last - v.first)
        return 0
    return PyArray_FillWithScalar(v.array_at(base, owner), 0.0)


@cython.final
@cython.no_gc
cdef class Total(Node):
    """A sum over axes, or a mean: the transpose spreads the cotangent over what was summed."""

    cdef int pullback(self, Recording tape) except -1:
        cdef npy_intp gs[64]
        cdef int i, j = 0, lane, single = self.x.typenum == NPY_FLOAT
        cdef View x = self.x
        cdef bint assign = False
        cdef float g32
        cdef char* g
        if self.out.buf.shadow is NULL if self.out is not None else untouched_slot(tape, self.slot):
            return 0
        for i in range(x.ndim):
            if (self.reduced >> i) & 1:
                gs[i] = 0
                j += self.keepdims
            else:
                gs[i] = self.out.strides[j]
                j += 1
        if x.buf.shadow is NULL:
            assign = x.is_whole()
            tape.give_shadow(x.buf, not assign)
        for lane in range(tape.width):
            if self.out is not None:
                g = self.out.buf.shadow + lane * self.out.buf.lane_bytes + self.out.offset
            elif single:
                g32 = <float>tape.adjoints[<size_t>self.slot * tape.width + lane]
                g = <char*>&g32
            else:
                g = <char*>(tape.adjoints + <size_t>self.slot * tape.width + lane)
            copy_add(single, x.ndim, x.shape, g, gs, 0, x.buf.shadow + lane * x.buf.lane_bytes + x.offset, x.strides, 0, 1,
                     self.scale, assign)
        if self.out is not None:
            self.out.buf.drop_shadow()
        return 0


@cython.final
@cython.no_gc
cdef class Extremum(Node):
    """A maximum, or minimum, over axes: the cotangent goes to the entries that won, in equal parts (so a NaN that won, too)."""

    cdef int pullback(self, Recording tape) except -1:
        cdef npy_intp ms[64]     # strides of the winners, and of their cotangents, along the axes of x
        cdef npy_intp cs[64]     # those of their counts
        cdef View x = self.x
        cdef int i, j = self.out.ndim if self.out is not None else 0, single = x.typenum == NPY_FLOAT
        cdef npy_intp size = 1
        cdef npy_intp* counts
        cdef float m32 = <float>self.value
        cdef char* m
        if self.out is None:
            if untouched_slot(tape, self.slot):
                return 0
            m = <char*>&m32 if single else <char*>&self.value
        elif self.out.buf.shadow is NULL:
            return 0
        else:
            m = self.out.buf.data + self.out.offset
        for i in range(x.ndim - 1, -1, -1):
            if (self.reduced >> i) & 1:
                ms[i] = cs[i] = 0
                j -= self.keepdims
            else:
                j -= 1
                ms[i] = self.out.strides[j]
                cs[i] = size
                size *= x.shape[i]
        if x.buf.shadow is NULL:
            tape.give_shadow(x.buf, True)
        counts = <npy_intp*>calloc(size, sizeof(npy_intp))
        if counts is NULL:
            raise MemoryError(f"cannot allocate {size * sizeof(npy_intp)} bytes of counts")
        try:
            self.share(tape, ms, cs, m, counts)
        finally:
            free(counts)
        if self.out is not None:
            self.out.buf.drop_shadow()
        return 0

    cdef int share(self, Recording tape, npy_intp* ms, npy_intp* cs, char* m, npy_intp* counts) except -1:
        cdef View x = self.x
        cdef int lane
        cdef float g32
        cdef char* g
        cdef char* xp = x.buf.data + x.offset
        if x.typenum == NPY_FLOAT:
            count_winners[float](x.ndim, x.shape, <float*>xp, x.strides, <float*>m, ms, counts, cs)
        else:
            count_winners[double](x.ndim, x.shape, <double*>xp, x.strides, <double*>m, ms, counts, cs)
        for lane in range(tape.width):
            if self.out is not None:
                g = self.out.buf.shadow + lane * self.out.buf.lane_bytes + self.out.offset
            elif x.typenum == NPY_FLOAT:
                g32 = <float>tape.adjoints[<size_t>self.slot * tape.width + lane]
                g = <char*>&g32
            else:
                g = <char*>(tape.adjoints + <size_t>self.slot * tape.width + lane)
            if x.typenum == NPY_FLOAT:
                reward_winners[float](x.ndim, x.shape, <float*>xp, x.strides, <float*>m, ms, counts, cs, <float*>g,
                                      <float*>(x.buf.shadow + lane * x.buf.lane_bytes + x.offset))
            else:
                reward_winners[double](x.ndim, x.shape, <double*>xp, x.strides, <double*>m, ms, counts, cs, <double*>g,
                                       <double*>(x.buf.shadow + lane * x.buf.lane_bytes + x.offset))
        return 0


ctypedef fused real:
    float
    double


cdef inline bint wins(real x, real best) noexcept nogil:
    return x == best or (best != best and x != x)


cdef inline real* at(real* base, npy_intp offset) noexcept nogil:
    return <real*>(<char*>base + offset)


cdef void count_winners(int ndim, npy_intp* shape, real* x, npy_intp* xs, real* m, npy_intp* ms,
                        npy_intp* counts, npy_intp* cs) noexcept nogil:
    """How many entries of x equal the winner of their group; strides in bytes, those of counts in elements."""
    cdef npy_intp i, found = 0
    if ndim == 1 and ms[0] == 0:
        for i in range(shape[0]):
            found += wins(at(x, i * xs[0])[0], m[0])
        counts[0] += found
        return
    if ndim == 0:
        counts[0] += wins(x[0], m[0])
        return
    for i in range(shape[0]):
        count_winners(ndim - 1, shape + 1, at(x, i * xs[0]), xs + 1, at(m, i * ms[0]), ms + 1, counts + i * cs[0], cs + 1)


cdef void reward_winners(int ndim, npy_intp* shape, real* x, npy_intp* xs, real* m, npy_intp* ms,
                         npy_intp* counts, npy_intp* cs, real* g, real* target) noexcept nogil:
    """Adds to target, which lies as x does, g divided by the number of winners, wherever x won; g lies as m does."""
    cdef npy_intp i
    if ndim == 1 and ms[0] == 0:
        for i in range(shape[0]):
            if wins(at(x, i * xs[0])[0], m[0]):
                at(target, i * xs[0])[0] += g[0] / counts[0]
        return
    if ndim == 0:
        if wins(x[0], m[0]):
            target[0] += g[0] / counts[0]
        return
    for i in range(shape[0]):
        reward_winners(ndim - 1, shape + 1, at(x, i * xs[0]), xs + 1, at(m, i * ms[0]), ms + 1, counts + i * cs[0], cs + 1,
                       at(g, i * ms[0]), at(target, i * xs[0]))


@cython.final
@cython.no_gc
cdef class Product(Node):
    """`a @ b` of vectors and matrices: the cotangent of a is g @ b^T, that of b is a^T @ g, and of vectors the same with the missing
    axis put in and taken out again."""

    cdef int pullback(self, Recording tape) except -1:
        cdef Matrix a, b, g
        if self.out.buf.shadow is NULL if self.out is not None else untouched_slot(tape, self.slot):
            return 0
        matrix_of(&a, self.a, self.a.buf.data, True)
        matrix_of(&b, self.b, self.b.buf.data, False)
        g.rows, g.columns, g.down, g.along = a.rows, b.columns, 0, 0
        if self.a_active:
            self.pull(tape, 0, &a, &b, &g, 0)
        if self.b_active:
            self.pull(tape, 1, &a, &b, &g, 0)
        if self.out is not None:
            self.out.buf.drop_shadow()
        return 0

    cdef int pull(self, Recording tape, int k, Matrix* a, Matrix* b, Matrix* g, int first) except -1:
        """Adds g @ b^T to the shadow of a (k = 0), or a^T @ g to that of b, in the lanes from the first that matters; straight
        into it where nothing is there yet."""
        cdef View target = self.b if k else self.a
        cdef Buffer buf = target.buf
        cdef int lane, single = target.typenum == NPY_FLOAT
        cdef npy_intp item = 4 if single else 8
        cdef npy_intp inner = g.rows if k else g.columns, outer = a.columns if k else b.rows
        cdef bint assign = buf.shadow is NULL and target.is_whole() and inner > 0
        cdef npy_intp start = 0, block = inner
        cdef Matrix t, left, right
        cdef char* scratch = NULL
        cdef float g32
        if buf.shadow is NULL:
            tape.give_shadow(buf, not assign)
        if tape.width > 1 and (g.columns if k else g.rows) == 1 and inner * outer * item > 1 << 20:
            # A matrix times one vector for each lane: in blocks that stay in the cache until all lanes have had them.
            block = max(1, (1 << 19) // (outer * item))
        try:
            while start < inner:
                for lane in range(first, tape.width):
                    if self.out is not None:
                        self.cotangent(g, lane)
                    elif single:
                        g32 = <float>tape.adjoints[<size_t>self.slot * tape.width + lane]
                        g.data = <char*>&g32
                    else:
                        g.data = <char*>(tape.adjoints + <size_t>self.slot * tape.width + lane)
                    left = transposed(a[0]) if k else g[0]
                    right = g[0] if k else transposed(b[0])
                    left.data += start * left.along
                    right.data += start * right.down
                    left.columns = right.rows = min(block, inner - start)
                    matrix_of(&t, target, buf.shadow + lane * buf.lane_bytes, k == 0)
                    if left.columns == 1:
                        add_outer(single, &left, &right, &t, assign and start == 0, tape.strong)
                    elif assign and start == 0:
                        multiply(single, &left, &right, &t)
                    else:
                        if scratch is NULL:
                            scratch = <char*>malloc(t.rows * t.columns * item)
                            if scratch is NULL:
                                raise MemoryError(f"cannot allocate {t.rows * t.columns * item} bytes for a cotangent")
                        multiply_add(single, &left, &right, &t, scratch)
                start += block
        finally:
            free(scratch)
        return 0

    cdef void cotangent(self, Matrix* g, int lane) noexcept:
        """The shadow of the result in one lane, with the axis of length one where an operand is a vector."""
        cdef View out = self.out
        g.data = out.buf.shadow + lane * out.buf.lane_bytes + out.offset
        g.down = out.strides[0]
        g.along = out.strides[out.ndim - 1]


cdef void matrix_of(Matrix* m, View v, char* base, bint row) noexcept:
    """A view over memory at `base` as a matrix; a vector as one row, or one column."""
    m.data = base + v.offset
    m.down = v.strides[0]
    m.along = v.strides[v.ndim - 1]
    m.rows = v.shape[0] if v.ndim == 2 or not row else 1
    m.columns = v.shape[v.ndim - 1] if v.ndim == 2 or row else 1


cdef Matrix transposed(Matrix m) noexcept:
    cdef Matrix t
    t.data, t.rows, t.columns, t.down, t.along = m.data, m.columns, m.rows, m.along, m.down
    return t


cdef void multiply(int single, Matrix* x, Matrix* y, Matrix* out) noexcept:
    """out = x @ y"""
    if x.rows * x.columns * y.columns < NO_GIL_FROM:
        multiply_matrices(single, x.rows, x.columns, y.columns, x.data, x.down, x.along, y.data, y.down, y.along,
                          out.data, out.down, out.along)
        return
    with nogil:
        multiply_matrices(single, x.rows, x.columns, y.columns, x.data, x.down, x.along, y.data, y.down, y.along,
                          out.data, out.down, out.along)


cdef void multiply_add(int single, Matrix* x, Matrix* y, Matrix* out, char* scratch) noexcept:
    """out += x @ y, in whatever layout; scratch has room for the product."""
    cdef npy_intp shape[2]
    cdef npy_intp from_strides[2]
    cdef npy_intp to_strides[2]
    cdef Matrix product = out[0]
    product.data = scratch
    product.along = 4 if single else 8
    product.down = product.along * out.columns
    multiply(single, x, y, &product)
    shape[0], shape[1] = out.rows, out.columns
    from_strides[0], from_strides[1] = product.down, product.along
    to_strides[0], to_strides[1] = out.down, out.along
    copy_add(single, 2, shape, scratch, from_strides, 0, out.data, to_strides, 0, 1, 1.0, 0)


cdef void add_outer(int single, Matrix* x, Matrix* y, Matrix* out, bint assign, bint strong) noexcept:
    """out (+)= x @ y for a column and a row: no product in BLAS's sense, one pass over out."""
    cdef npy_intp shape[2]
    cdef npy_intp xs[2]
    cdef npy_intp ys[2]
    cdef npy_intp to_strides[2]
    shape[0], shape[1] = out.rows, out.columns
    xs[0], xs[1] = x.down, 0
    ys[0], ys[1] = 0, y.along
    to_strides[0], to_strides[1] = out.down, out.along
    accumulate(MULTIPLY, 0, single, 2, shape, x.data, xs, y.data, ys, NULL, xs, x.data, xs, 0, out.data, to_strides, 0, 1,
               assign, strong)


@cython.final
cdef class Link(Node):
    """Any operation that is linear once linearised: pullbacks of one lane, from the shadows of outs to those of operands.

    Operands and outs are views, or slots (ints) for scalars.
    """

    cdef int pullback(self, Recording tape) except -1:
        cdef int lane, k
        cdef object g, c, operand
        cdef bint nothing
        tape.hush()
        for lane in range(tape.width):
            gs = [adjoint_of(tape, out, lane) for out in self.outs]
            if all([g is None for g in gs]):
                continue
            g = gs[0] if len(gs) == 1 else tuple(gs)
            nothing = tape.strong and is_zero_seed(g)
            for k in range(len(self.operands)):
                operand = self.operands[k]
                pull = self.pulls[k]
                if type(pull) is Into:
                    key, c = pull.pull(g)
                    add_into(tape, <View>operand, lane, key, finite_only(c) if nothing else c)
                    continue
                c = pull(g)
                if c is None:
                    continue
                if nothing:
                    c = finite_only(c)
                if type(operand) is int:
                    tape.adjoints[<size_t>operand * tape.width + lane] += float(np.sum(np.real(c)))
                else:
                    lend_lanes(tape, <View>operand)
                    add_to_lane(tape, <View>operand, lane, c)
        for operand in self.outs:
            if type(operand) is not int:
                (<View>operand).buf.drop_shadow()
        return 0


cdef bint untouched_slot(Recording tape, uint32_t slot) noexcept:
    return untouched(tape.adjoints + <size_t>slot * tape.width, tape.width)


cdef object adjoint_of(Recording tape, object place, int lane):
    """The cotangent of a view or slot in one lane; None where nothing has been added."""
    if type(place) is int:
        if place == FREE:
            return None
        if untouched(tape.adjoints + <size_t>place * tape.width, tape.width):
            return None
        return np.float64(tape.adjoints[<size_t>place * tape.width + lane] + 0.0)
    return lane_of(<View>place, lane)


cdef int lend_lanes(Recording tape, View v) except -1:
    """Makes sure that a view has a shadow, and that the sweep knows to drop it."""
    if v.buf.shadow is NULL and v.buf.lanes is None:
        tape.shadowed.append(v.buf)
        if v.buf.data is not NULL:
            ensure_lanes(tape, v.buf, tape.width)
    return 0


cdef int add_into(Recording tape, View v, int lane, object key, object c) except -1:
    lend_lanes(tape, v)
    target = lane_of(v, lane)
    if target.dtype.kind != "c":
        c = c.real if np.iscomplexobj(plain_value(c)) else c
    target[key] = target[key] + c
    return 0


@cython.final
cdef class Gather(Node):
    """`out = source[key]` with an index that copies: repeats count each time."""

    cdef int pullback(self, Recording tape) except -1:
        cdef int lane
        for lane in range(tape.width):
            g = lane_of(self.out, lane)
            if g is None:
                return 0
            lend_lanes(tape, self.source)
            target = lane_of(self.source, lane)
            if self.repeats or self.source.overlaps:
                np.add.at(target, self.key, g)
            else:
                target[self.key] = target[self.key] + g
        self.out.buf.drop_shadow()
        return 0


@cython.final
cdef class Scatter(Node):
    """`target[key] = source` with an index that copies; of repeats only one stayed (`_repeats`)."""

    cdef int pullback(self, Recording tape) except -1:
        cdef int lane
        for lane in range(tape.width):
            shadow = lane_of(self.target, lane)
            if shadow is None:
                return 0
            g = shadow[self.key]
            shadow[self.key] = 0.0
            if self.source is None:
                continue
            if self.lost is not None:
                g[self.lost] = 0.0
            if type(self.source) is int:
                tape.adjoints[<size_t>self.source * tape.width + lane] += float(np.sum(np.real(g)))
            else:
                lend_lanes(tape, <View>self.source)
                add_to_lane(tape, <View>self.source, lane, squeeze_leading(g, (<View>self.source).ndim))
        return 0


@cython.final
cdef class AddAt(Node):
    """`np.add.at(target, key, source)`: the shadow of target stays, source gets what was there."""

    cdef int pullback(self, Recording tape) except -1:
        cdef int lane
        for lane in range(tape.width):
            shadow = lane_of(self.target, lane)
            if shadow is None:
                return 0
            g = shadow[self.key]
            if type(self.source) is int:
                tape.adjoints[<size_t>self.source * tape.width + lane] += float(np.sum(np.real(g)))
            else:
                lend_lanes(tape, <View>self.source)
                add_to_lane(tape, <View>self.source, lane, g)
        return 0


@cython.final
cdef class GeneralStore(Node):
    """`target[...] = source` where dtypes differ, shadows are tracked by an outer differentiation, or target names elements twice."""

    cdef int pullback(self, Recording tape) except -1:
        cdef int lane
        for lane in range(tape.width):
            shadow = lane_of(self.target, lane)
            if shadow is None:
                return 0
            if type(self.source) is View and copied_in_turn(self.target, <View>self.source):
                pull_in_turn_general(self.target, <View>self.source, shadow, lane_of(<View>self.source, lane))
                continue
            g = shadow.copy()
            shadow[...] = 0.0
            if self.source is None:
                continue
            if self.lost is not None:
                g[self.lost] = 0.0
            if type(self.source) is int:
                tape.adjoints[<size_t>self.source * tape.width + lane] += float(np.sum(np.real(g)))
            else:
                lend_lanes(tape, <View>self.source)
                add_to_lane(tape, <View>self.source, lane, squeeze_leading(g, (<View>self.source).ndim))
        return 0


cdef int pull_in_turn_general(View target, View source, object t, object s) except -1:
    """`Store.pull_in_turn` by ordinary NumPy calls."""
    cdef npy_intp i, n = target.shape[0], size = source.size
    s = s[(0,) * (source.ndim - 1)]   # leading axes have length one
    for i in (range(n) if copied_backwards(target, source) else range(n - 1, -1, -1)):
        if target.offset + i * target.strides[0] == source.offset + i * source_step(source):
            continue
        k = i if size > 1 else 0
        s[k] = s[k] + t[i]
        t[i] = 0.0
    return 0


cdef object squeeze_leading(object g, int ndim):
    """An assignment drops leading axes of length one of its source; puts them back."""
    return g.reshape((1,) * (ndim - g.ndim) + g.shape) if g.ndim < ndim else g


@cython.final
@cython.no_gc
cdef class Undo(Node):
    """The values that a region (or the elements under `key`) held before a write; trades them with memory."""

    cdef int swap(self, Recording tape) except -1:
        if self.saved is None:
            return 0
        memory = self.prim if self.prim is not None else self.region.primal()
        if self.key is None:
            now = memory.copy()
            memory[...] = self.saved
        else:
            now = memory[self.key]
            memory[self.key] = self.saved
        self.saved = now
        return 0

    cdef int pullback(self, Recording tape) except -1:
        return self.swap(tape)
