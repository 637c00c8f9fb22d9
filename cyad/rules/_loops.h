/* The innermost loops, a template: _kernels.h includes this once for each number type and instruction set, with
   T_ (the type), T(literal), M_f (functions), CYAD_NAME(f) (the name of an instance) and CYAD_TARGET defined.

   Strides are in bytes. Seed and target may be the very same memory (an in-place operation of forward mode), which
   is why no pointer but the scratch is `restrict`; they never overlap in part. CYAD_INDEPENDENT tells the compiler that much. */

#define CYAD_SEGMENTS
#include "_partials.h"
#undef CYAD_SEGMENTS

#define AT(pointer, stride) (*(T_ *)((pointer) + i * (stride)))
#define CONTIGUOUS(statement) { CYAD_INDEPENDENT for (i = 0; i < n; i++) { statement; } }
#define STRIDED(statement) { for (i = 0; i < n; i++) { statement; } }
/* The four ways to add: assign or accumulate, plain or with a zero seed that contributes exactly zero. */
#define FOUR(LOOP, t, s, p) \
    if (strong) { \
        if (assign) LOOP(T_ v = s; T_ w = v * p; t = v == T(0.0) ? T(0.0) : w) \
        else LOOP(T_ v = s; T_ w = v * p; t += v == T(0.0) ? T(0.0) : w) \
    } else { \
        if (assign) LOOP(t = s * p) \
        else LOOP(t += s * p) \
    }

/* t[i] (+)= s[i] * p[i] */
static CYAD_TARGET void CYAD_NAME(multiply_add)(npy_intp n, char *seed, npy_intp ss, const char *partial, npy_intp sp,
                                                char *target, npy_intp st, int assign, int strong)
{
    const npy_intp item = sizeof(T_);
    npy_intp i;
    if (n == 1 || (ss == item && st == item && (sp == item || sp == 0))) {
        const T_ *s = (const T_ *)seed, *p = (const T_ *)partial;
        T_ *t = (T_ *)target;
        if (sp == item) {
            FOUR(CONTIGUOUS, t[i], s[i], p[i])
        } else {
            const T_ c = *p;
            FOUR(CONTIGUOUS, t[i], s[i], c)
        }
    } else if (sp == 0) {
        const T_ c = *(const T_ *)partial;
        FOUR(STRIDED, AT(target, st), AT(seed, ss), c)
    } else {
        FOUR(STRIDED, AT(target, st), AT(seed, ss), AT(partial, sp))
    }
}

/* sum of s[i] * p[i], products in T_, the sum in double: eight partial sums, combined pairwise. */
static CYAD_TARGET double CYAD_NAME(dot)(npy_intp n, char *seed, npy_intp ss, const char *partial, npy_intp sp,
                                         int strong)
{
    const npy_intp item = sizeof(T_);
    double sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    npy_intp i = 0, j;
    if (!strong && ss == item && (sp == item || sp == 0)) {
        const T_ *s = (const T_ *)seed, *p = (const T_ *)partial;
        if (sp == item) {
            for (; i + 8 <= n; i += 8) for (j = 0; j < 8; j++) sum[j] += (double)(s[i + j] * p[i + j]);
        } else {
            const T_ c = *p;
            for (; i + 8 <= n; i += 8) for (j = 0; j < 8; j++) sum[j] += (double)(s[i + j] * c);
        }
    }
    for (; i < n; i++) {
        T_ v = AT(seed, ss);
        if (!(strong && v == T(0.0))) sum[i & 7] += (double)(v * AT(partial, sp));
    }
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

/* sum[i] += s[i] * p[i], products in T_. */
static CYAD_TARGET void CYAD_NAME(multiply_sum)(npy_intp n, char *seed, npy_intp ss, const char *partial, npy_intp sp,
                                                double *restrict sum, int strong)
{
    const npy_intp item = sizeof(T_);
    npy_intp i;
    if (!strong && ss == item && sp == item) {
        const T_ *s = (const T_ *)seed, *p = (const T_ *)partial;
        for (i = 0; i < n; i++) sum[i] += (double)(s[i] * p[i]);
    } else if (!strong && ss == item && sp == 0) {
        const T_ *s = (const T_ *)seed, c = *(const T_ *)partial;
        for (i = 0; i < n; i++) sum[i] += (double)(s[i] * c);
    } else {
        for (i = 0; i < n; i++) {
            T_ v = AT(seed, ss);
            if (!(strong && v == T(0.0))) sum[i] += (double)(v * AT(partial, sp));
        }
    }
}

/* t[i] += sum[i] */
static CYAD_TARGET void CYAD_NAME(add_sum)(npy_intp n, const double *restrict sum, char *target, npy_intp st)
{
    npy_intp i;
    for (i = 0; i < n; i++) AT(target, st) = (T_)((double)AT(target, st) + sum[i]);
}

/* Contiguous scratch from strided memory. */
static CYAD_TARGET void CYAD_NAME(gather)(npy_intp n, const char *from, npy_intp stride, char *to)
{
    T_ *restrict t = (T_ *)to;
    npy_intp i;
    if (stride == 0) {
        const T_ c = *(const T_ *)from;
        for (i = 0; i < n; i++) t[i] = c;
    } else {
        for (i = 0; i < n; i++) t[i] = AT(from, stride);
    }
}

static const cyad_loops CYAD_NAME(loops) = {
    (const cyad_segment *)CYAD_NAME(segments), CYAD_NAME(multiply_add), CYAD_NAME(dot), CYAD_NAME(multiply_sum),
    CYAD_NAME(add_sum), CYAD_NAME(gather),
};

#undef AT
#undef CONTIGUOUS
#undef STRIDED
#undef FOUR
