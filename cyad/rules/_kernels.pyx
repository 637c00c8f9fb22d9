"""The elementwise table at work: rows by ufunc, values and partials of numbers, derivatives over strided memory.

The loops are C (``_kernels.h``). What is here binds them: a :class:`Row` for each row of ``table.py``, and the inner
loops of each ufunc, taken from the ufunc object itself, so that a number evaluated by cyad equals NumPy's to the last
bit. The ufunc structure is one of the three non-public interfaces that cyad leans on, and this is its home.

scipy.special is never imported: its rows are bound when the first of its ufuncs is looked up.
"""
import sys

import numpy as np

from . import expressions, table

cimport numpy as cnp
from libc.math cimport pow, powf
from numpy cimport NPY_DOUBLE, NPY_FLOAT, npy_intp

cnp.import_array()
cnp.import_umath()


cdef extern from "_kernels.h" nogil:
    ctypedef struct cyad_program:
        unsigned char kind, reads
    ctypedef struct cyad_ufunc:
        void *run
        void *data
    const cyad_program cyad_programs[][2]
    const char *cyad_functions[]
    int CYAD_FUNCTION_COUNT
    cyad_ufunc cyad_primal[][2]
    cyad_ufunc cyad_function[][2]
    void cyad_choose_loops()
    int cyad_status()
    void cyad_clear_status()
    double cyad_evaluate(int op, double x, double y)
    double cyad_evaluate_float(int op, double x, double y)
    int cyad_evaluate_array(int op, int f32, npy_intp n, char *x, npy_intp sx, char *y, npy_intp sy,
                            char *out, npy_intp so)
    int cyad_accumulate(const cyad_program *program, int strong, int f32, int ndim, const npy_intp *shape,
                        char *x, const npy_intp *xs, char *y, const npy_intp *ys, char *o, const npy_intp *os,
                        char *seed, const npy_intp *ss, npy_intp seed_lane,
                        char *target, const npy_intp *ts, npy_intp target_lane, npy_intp lanes, int assign)
    int cyad_copy_add(int f32, int ndim, const npy_intp *shape, char *source, const npy_intp *ss, npy_intp source_lane,
                      char *target, const npy_intp *ts, npy_intp target_lane, npy_intp lanes, double scale, int assign)


ctypedef void (*matmul_loop)(char **args, const npy_intp *sizes, const npy_intp *steps, void *data) noexcept nogil


# ---- rows ------------------------------------------------------------------------------------------------------------

cdef class Row:
    """One row of the elementwise table.

    ``partials``: a callable ``f(x, y, o)`` for each operand, over whatever NumPy dispatches on; None where the operand
    has no derivative, and ``refusal`` then says why. ``reads``, ``inert``, ``identity``: see the attributes in ``_kernels.pxd``.
    ``scalar``: `evaluate` works; ``single``: on float32, too, without going to doubles. ``ufunc`` is None until a scipy row is bound. ``outputs`` are the rows that the outputs
    of a ufunc follow: the row itself, or several (divmod, modf, frexp). ``composite`` is the function that a ufunc
    is written as (clip), None for others. Rows without partials of their own (modf, divmod, clip) have ``op`` -1.
    """

    @property
    def partials(self):
        """Made when first asked for: most programs never leave the fast path, and importing must be quick."""
        if self._partials is None:
            self._partials = expressions.partials_of(table.BY_NAME[self.name])
        return self._partials

    def __repr__(self):
        rule = table.BY_NAME.get(self.name)
        return f"<row {self.name}: {', '.join(map(str, rule.partials)) if rule else 'see outputs, composite'}>"


cdef dict _rows = {}
cdef dict _of_ufunc = {}
rows_by_name = _rows
row_of_ufunc = _of_ufunc


cdef Row _make(int op, rule):
    cdef Row row = Row.__new__(Row)
    cdef int k
    row.op, row.name, row.domain, row.note = op, rule.name, rule.domain, rule.note
    row.nin, row.nout, row.outputs = len(rule.partials), 1, (row,)
    row.strong = rule.flags & table.STRONG
    row.holomorphic = rule.flags & table.HOLOMORPHIC
    row.anti = rule.flags & table.ANTI
    row.zero = all(text == "0" for text in rule.partials)
    row.refusal = rule.note if None in rule.partials else None
    for k, text in enumerate(rule.partials):
        row.reads |= cyad_programs[op][k].reads << 3 * k
        row.inert |= (text == "0") << k
        row.identity |= (text == "1") << k
    return row


cdef extern from *:
    """
    /* The fields by name, from NumPy's header: which of them its .pxd declares differs between versions of NumPy. */
    #define cyad_loop_count(u) (((PyUFuncObject *)(u))->ntypes)
    #define cyad_operand_count(u) (((PyUFuncObject *)(u))->nargs)
    #define cyad_type_numbers(u) (((PyUFuncObject *)(u))->types)
    #define cyad_loop(u, i) ((void *)((PyUFuncObject *)(u))->functions[i])
    #define cyad_loop_data(u, i) ((void *)((PyUFuncObject *)(u))->data[i])
    """
    int cyad_loop_count(object ufunc) noexcept
    int cyad_operand_count(object ufunc) noexcept
    const char* cyad_type_numbers(object ufunc) noexcept
    void* cyad_loop(object ufunc, int i) noexcept
    void* cyad_loop_data(object ufunc, int i) noexcept


cdef bint _loops_of(object ufunc, cyad_ufunc *loops) except -1:
    """Takes the loops of `ufunc` for doubles and floats; whether there is one for doubles alone."""
    cdef int i, j, f32, kind, nargs = cyad_operand_count(ufunc)
    for f32 in range(2):
        kind = NPY_FLOAT if f32 else NPY_DOUBLE
        for i in range(cyad_loop_count(ufunc)):
            for j in range(nargs):
                if cyad_type_numbers(ufunc)[i * nargs + j] != kind:
                    break
            else:    # of several loops of a type, NumPy takes the first
                loops[f32].run = cyad_loop(ufunc, i)
                loops[f32].data = cyad_loop_data(ufunc, i)
                break
    return loops[0].run != NULL


cdef int _bind(Row row, object ufunc) except -1:
    row.ufunc = ufunc
    row.nout = ufunc.nout
    if ufunc.nin == row.nin and ufunc.nout == 1:
        row.scalar = _loops_of(ufunc, cyad_primal[row.op])
        row.single = cyad_primal[row.op][1].run != NULL
    _of_ufunc[ufunc] = row
    return 0


cdef int _bind_functions(object module) except -1:
    """Gives the block programs the functions that `module` has (np.i0 is no ufunc; scipy's is)."""
    cdef int i
    for i in range(CYAD_FUNCTION_COUNT):
        if cyad_function[i][0].run == NULL:
            ufunc = _ufunc_named(module, cyad_functions[i].decode())
            if ufunc is not None:
                _loops_of(ufunc, cyad_function[i])
    return 0


def _ufunc_named(module, name):
    """scipy hides one ufunc, _zeta, behind a Python function."""
    for spelling in (name, "_" + name):
        ufunc = getattr(module, spelling, None)
        if isinstance(ufunc, np.ufunc):
            return ufunc
    return None


cdef Row _without_partials(str name, int nin, int nout):
    cdef Row row = Row.__new__(Row)
    _rows[name] = row
    row.op, row.name, row.nin, row.nout = -1, name, nin, nout
    row._partials = row.domain = row.outputs = ()
    return row


cdef int _build() except -1:
    cdef Row row
    for op, rule in enumerate(table.RULES):
        row = _rows[rule.name] = _make(op, rule)
        if rule.name not in table.SPECIAL_NAMES:
            _bind(row, getattr(np, rule.name))
    for name, outputs in table.OUTPUTS.items():
        ufunc = getattr(np, name)
        row = _rows.get(name) or _without_partials(name, ufunc.nin, ufunc.nout)
        row.ufunc = ufunc
        _of_ufunc[ufunc] = row
        row.outputs = tuple(_rows[output] for output in outputs)
    for name, text in table.COMPOSITE.items():
        row = _without_partials(name, text.count(",") + 1, 1)
        row.composite = expressions.composite_function(text, name)
    _bind_functions(np)
    cyad_choose_loops()
    return 0


_build()


cdef Row lookup(object ufunc):
    """The row of `ufunc`, or None."""
    cdef Row row = _of_ufunc.get(ufunc)
    return row if row is not None else _first_look(ufunc)


cdef Row _first_look(object ufunc):
    """Binds the ufuncs that show up only when they are called: scipy's, and the one behind np.clip."""
    name = ufunc.__name__.removeprefix("_")
    cdef Row row = _rows.get(name)
    if row is None:
        return None
    if row.composite is not None and ufunc.nin == row.nin:
        row.ufunc = ufunc
        _of_ufunc[ufunc] = row
        return row
    special = sys.modules.get("scipy.special._ufuncs")
    if special is None or name not in table.SPECIAL_NAMES or _ufunc_named(special, name) is not ufunc:
        return None
    _bind_functions(special)
    _bind(row, ufunc)
    return row


def find(ufunc):
    """`lookup` for Python."""
    return lookup(ufunc)


# ---- numbers ---------------------------------------------------------------------------------------------------------

cdef double evaluate(int op, double x, double y) noexcept nogil:
    return cyad_evaluate(op, x, y)


cdef double evaluate_f32(int op, double x, double y) noexcept nogil:
    return cyad_evaluate_float(op, x, y)


cdef double scalar_pow(double x, double y) noexcept nogil:
    """``np.float64.__pow__``: libm's pow, where the ufunc has a vector version that may round otherwise."""
    return pow(x, y)


cdef double scalar_pow_f32(double x, double y) noexcept nogil:
    """``np.float32.__pow__``."""
    return powf(<float>x, <float>y)


cdef int partials_at(int op, int need, double x, double y, double o, double *px, double *py) noexcept nogil:
    cdef double one = 1.0
    cdef int status = 0
    if cyad_has_partials[op]:
        cyad_partials(op, need, x, y, o, px, py)
        return 0
    if need & 1:
        status |= cyad_accumulate(&cyad_programs[op][0], 0, 0, 0, NULL, <char *>&x, NULL, <char *>&y, NULL,
                                  <char *>&o, NULL, <char *>&one, NULL, 0, <char *>px, NULL, 0, 1, 1)
    if need & 2:
        status |= cyad_accumulate(&cyad_programs[op][1], 0, 0, 0, NULL, <char *>&x, NULL, <char *>&y, NULL,
                                  <char *>&o, NULL, <char *>&one, NULL, 0, <char *>py, NULL, 0, 1, 1)
    return status


# ---- arrays ----------------------------------------------------------------------------------------------------------

cdef int evaluate_array(Row row, int is_f32, npy_intp n, char *x, npy_intp sx, char *y, npy_intp sy,
                        char *out, npy_intp so) noexcept:
    return -1 if row.op < 0 else cyad_evaluate_array(row.op, is_f32, n, x, sx, y, sy, out, so)


cdef int accumulate(Row row, int k, int is_f32, int ndim, const npy_intp *shape,
                    char *x, const npy_intp *xs, char *y, const npy_intp *ys, char *o, const npy_intp *os,
                    char *seed, const npy_intp *ss, npy_intp seed_lane,
                    char *target, const npy_intp *ts, npy_intp target_lane,
                    npy_intp nlanes, int assign, int strong) noexcept:
    """``target[lane][i] (+)= seed[lane][i] * partial_k(x[i], y[i], o[i])`` over `shape`; strides in bytes.

    Axes along which the target does not move are summed over (not with `assign`). x, y, o may be NULL where the
    partial does not read them. Seed and target may be the same memory, but not overlap otherwise.
    """
    if row.op < 0 or k >= row.nin:
        return -1
    return cyad_accumulate(&cyad_programs[row.op][k], strong or row.strong, is_f32, ndim, shape, x, xs, y, ys, o, os,
                           seed, ss, seed_lane, target, ts, target_lane, nlanes, assign)


cdef int copy_add(int is_f32, int ndim, const npy_intp *shape, char *src, const npy_intp *ss, npy_intp src_lane,
                  char *target, const npy_intp *ts, npy_intp target_lane, npy_intp nlanes,
                  double scale, int assign) noexcept:
    """``target[lane][i] (+)= scale * src[lane][i]``; axes along which the target does not move are summed over."""
    return cyad_copy_add(is_f32, ndim, shape, src, ss, src_lane, target, ts, target_lane, nlanes, scale, assign)


cdef cyad_ufunc[2] _matmul
_loops_of(np.matmul, _matmul)


cdef int multiply_matrices(int is_f32, npy_intp m, npy_intp n, npy_intp p, char *a, npy_intp a_m, npy_intp a_n,
                           char *b, npy_intp b_n, npy_intp b_p, char *out, npy_intp o_m, npy_intp o_p) noexcept nogil:
    """``out = a @ b`` for (m, n) times (n, p), strides in bytes, by the loop of np.matmul: BLAS, or what NumPy has instead.

    No size is zero, and out overlaps neither operand.
    """
    cdef char *args[3]
    cdef npy_intp sizes[4]
    cdef npy_intp steps[9]
    args[0], args[1], args[2] = a, b, out
    sizes[0], sizes[1], sizes[2], sizes[3] = 1, m, n, p
    steps[0] = steps[1] = steps[2] = 0
    steps[3], steps[4], steps[5], steps[6], steps[7], steps[8] = a_m, a_n, b_n, b_p, o_m, o_p
    if cyad_status():
        cyad_clear_status()
    (<matmul_loop>_matmul[is_f32].run)(args, sizes, steps, _matmul[is_f32].data)
    return cyad_status()


# ---- hooks for the tests ---------------------------------------------------------------------------------------------

def scalar_value(Row row, double x, double y=0.0, *, bint f32=False):
    """What `evaluate` gives."""
    if not row.scalar:
        raise ValueError(f"{row.name} has no loop for numbers")
    return np.float32(evaluate_f32(row.op, x, y)) if f32 else evaluate(row.op, x, y)


def scalar_partials(Row row, double x, double y, double o):
    """What `partials_at` gives for every operand; nan for one without derivative."""
    cdef double px = np.nan, py = np.nan
    need = sum(1 << k for k, partial in enumerate(row.partials) if partial is not None)
    if partials_at(row.op, need, x, y, o, &px, &py):
        return None
    return (px, py)[:row.nin]


def scalar_partials2(Row row, double x, double y, double o):
    """The second partials xx, xy, yy by C, or None where C has not got them."""
    cdef double pxx, pxy, pyy
    if not cyad_has_partials2[row.op]:
        return None
    cyad_partials2(row.op, 3, x, y, o, &pxx, &pxy, &pyy)
    return pxx, pxy, pyy


def power_of_numbers(double x, double y, *, bint f32=False):
    """What `scalar_pow` gives."""
    return np.float32(scalar_pow_f32(x, y)) if f32 else scalar_pow(x, y)


cdef _broadcast(array, shape, dtype, writeable=False):
    if array.dtype != dtype:
        raise TypeError(f"an operand is {array.dtype}, not {dtype}")
    return np.lib.stride_tricks.as_strided(array, shape, np.broadcast_to(array, shape).strides, writeable=writeable)


def accumulate_arrays(Row row, int k, x, y, o, seed, target, *, shape, lanes=None, bint assign=False,
                      bint strong=False, scale=None):
    """`accumulate` (or `copy_add`, if `scale` is given) on ndarrays that broadcast to `shape`.

    With `lanes`, seed and target have that many in front.
    """
    dtype, count = target.dtype, 1 if lanes is None else lanes
    lane_shape = tuple(shape) if lanes is None else (lanes, *shape)
    pad = lambda a: a if lanes is None else a.reshape(a.shape[:1] + (1,) * (len(lane_shape) - a.ndim) + a.shape[1:])
    inputs = [None if a is None else _broadcast(a, tuple(shape), dtype) for a in (x, y, o)]
    moved = [np.broadcast_to(pad(seed), lane_shape), _broadcast(pad(target), lane_shape, dtype, True)]
    if not all(a is None or a.flags.aligned for a in inputs + moved) or seed.dtype != dtype:
        raise TypeError("operands must be aligned and of one dtype")
    cdef npy_intp sizes[64]
    cdef npy_intp strides[5][64]
    cdef npy_intp lane[2]
    cdef char *at[5]
    cdef int j, d, ndim = len(shape), first
    lane[0] = lane[1] = 0
    for d in range(ndim):
        sizes[d] = shape[d]
    for j, a in enumerate([*inputs, *moved]):
        at[j] = NULL if a is None else cnp.PyArray_BYTES(a)
        first = 1 if j >= 3 and lanes is not None else 0
        if first:
            lane[j - 3] = a.strides[0]
        for d in range(ndim):
            strides[j][d] = 0 if a is None else a.strides[d + first]
    if scale is not None:
        return copy_add(dtype == np.float32, ndim, sizes, at[3], strides[3], lane[0], at[4], strides[4], lane[1],
                        count, scale, assign)
    return accumulate(row, k, dtype == np.float32, ndim, sizes, at[0], strides[0], at[1], strides[1],
                      at[2], strides[2], at[3], strides[3], lane[0], at[4], strides[4], lane[1], count, assign, strong)


def evaluate_arrays(Row row, x, y, out):
    """`evaluate_array` on flat ndarrays; a 0-d operand has stride 0."""
    return evaluate_array(row, out.dtype == np.float32, out.size, cnp.PyArray_BYTES(x), x.strides[0] if x.ndim else 0,
                          NULL if y is None else cnp.PyArray_BYTES(y), y.strides[0] if y is not None and y.ndim else 0,
                          cnp.PyArray_BYTES(out), out.strides[0])
