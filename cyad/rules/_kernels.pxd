from numpy cimport npy_intp


cdef extern from "_partials.h" nogil:
    int CYAD_OP_COUNT
    int CYAD_OP_add, CYAD_OP_subtract, CYAD_OP_multiply, CYAD_OP_divide, CYAD_OP_negative, CYAD_OP_positive
    int CYAD_OP_absolute, CYAD_OP_square, CYAD_OP_sqrt, CYAD_OP_power, CYAD_OP_remainder, CYAD_OP_floor_divide
    int CYAD_OP_exp, CYAD_OP_log, CYAD_OP_sin, CYAD_OP_cos
    const unsigned char *cyad_has_partials
    const unsigned char *cyad_has_partials2
    const unsigned char *cyad_curved
    const unsigned char *cyad_strong
    const unsigned char *cyad_arity
    void cyad_partials(int op, int need, double x, double y, double o, double *px, double *py)
    void cyad_partials2(int op, int need, double x, double y, double o, double *pxx, double *pxy, double *pyy)


cdef class Row:
    cdef readonly int op, nin, nout
    cdef readonly int reads         # operand k: bits 3*k, 3*k + 1, 3*k + 2 say that its partial reads x, y, o
    cdef readonly int inert         # bit k: the partial of operand k is always zero
    cdef readonly int identity      # bit k: it is always one
    cdef readonly bint strong, zero, scalar, single, holomorphic, anti
    cdef readonly object name, ufunc, refusal, domain, note, outputs, composite
    cdef object _partials           # the attribute `partials` makes them


cdef Row lookup(object ufunc)

# One number, by NumPy's own loop; only where row.scalar.
cdef double evaluate(int op, double x, double y) noexcept nogil
cdef double evaluate_f32(int op, double x, double y) noexcept nogil
# What np.float64 and np.float32 do for **: not what np.power does, which is evaluate().
cdef double scalar_pow(double x, double y) noexcept nogil
cdef double scalar_pow_f32(double x, double y) noexcept nogil
# What cyad_partials does, for any row: also where only scipy has the functions. -1 if not even it.
cdef int partials_at(int op, int need, double x, double y, double o, double *px, double *py) noexcept nogil

# 0; 1 if NumPy would warn; -1 if the ufunc has no loop of this type.
cdef int evaluate_array(Row row, int is_f32, npy_intp n, char *x, npy_intp sx, char *y, npy_intp sy,
                        char *out, npy_intp so) noexcept

# 0; -1 if the operand has no partial, or a function that it needs has no loop of this type.
cdef int accumulate(Row row, int k, int is_f32, int ndim, const npy_intp *shape,
                    char *x, const npy_intp *xs, char *y, const npy_intp *ys, char *o, const npy_intp *os,
                    char *seed, const npy_intp *ss, npy_intp seed_lane,
                    char *target, const npy_intp *ts, npy_intp target_lane,
                    npy_intp nlanes, int assign, int strong) noexcept
cdef int copy_add(int is_f32, int ndim, const npy_intp *shape, char *src, const npy_intp *ss, npy_intp src_lane,
                  char *target, const npy_intp *ts, npy_intp target_lane, npy_intp nlanes,
                  double scale, int assign) noexcept
# 0; 1 if NumPy would warn.
cdef int multiply_matrices(int is_f32, npy_intp m, npy_intp n, npy_intp p, char *a, npy_intp a_m, npy_intp a_n,
                           char *b, npy_intp b_n, npy_intp b_p, char *out, npy_intp o_m, npy_intp o_p) noexcept nogil
