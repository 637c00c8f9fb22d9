/* Derivatives over strided memory:  target[lane][i] (+)= seed[lane][i] * partial(x[i], y[i], o[i]).

   One pass over memory. Blocks that fit the first-level cache: the partial is evaluated once per block into scratch
   (arithmetic by generated loops, functions by NumPy's own inner loops, SIMD included) and used for every lane.
   Axes of length one go, axes that all operands step through alike become one, and the inner axis is the one of the
   smallest strides unless it is too short to be worth a loop. Axes along which the target does not move reduce: such
   sums run in double with compensation between blocks.

   Everything lives on the stack: re-entrant, safe from several threads, no Python.

   Rejected: one fused loop per partial, type, layout and way to add (hundreds of functions; a second pass over scratch
   in the first-level cache costs less than the loads of the operands do). gcc's target_clones: needs ifunc, hence
   glibc; choosing a table once at import does not. */
#ifndef CYAD_KERNELS_H
#define CYAD_KERNELS_H

#include <stdint.h>
#include <string.h>
#include <fenv.h>
#include <numpy/npy_common.h>
#include <numpy/ndarraytypes.h>
#include "_partials.h"
#define CYAD_PROGRAMS
#include "_partials.h"
#undef CYAD_PROGRAMS
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define CYAD_X86 1
#endif

enum { CYAD_BLOCK = 512, CYAD_SMALL = 32, CYAD_REGISTERS = 3 + CYAD_MAX_STEPS, CYAD_SHORT_AXIS = 32, CYAD_TILE = 64,
       CYAD_SUM_LANES = 4 };
#if defined(__clang__)
#define CYAD_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define CYAD_INDEPENDENT _Pragma("GCC ivdep")
#else
#define CYAD_INDEPENDENT
#endif

enum { X, Y, O, SEED, TARGET, OPERANDS };

typedef void (*cyad_segment)(npy_intp n, char *const *in, void *out);

typedef struct {
    const cyad_segment *segments;
    void (*multiply_add)(npy_intp, char *, npy_intp, const char *, npy_intp, char *, npy_intp, int, int);
    double (*dot)(npy_intp, char *, npy_intp, const char *, npy_intp, int);
    void (*multiply_sum)(npy_intp, char *, npy_intp, const char *, npy_intp, double *, int);
    void (*add_sum)(npy_intp, const double *, char *, npy_intp);
    void (*gather)(npy_intp, const char *, npy_intp, char *);
} cyad_loops;

/* ---- instances of the loops ------------------------------------------------------------------------------------- */

/* Nobody looks at the status flags of these loops, and gcc vectorises a choice between two values only where it may
   set flags that the plain loop would not. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("no-trapping-math")
#endif

#define CYAD_TARGET
#define T_ double
#define T(v) v
#define M_sqrt sqrt
#define M_absolute fabs
#define M_square(a) ((a) * (a))
#define M_sign(a) ((a) > 0 ? 1.0 : (a) < 0 ? -1.0 : (a))
#define M_copysign copysign
#define M_rint rint
#define M_leg1(a) sqrt((1.0 - (a)) * (1.0 + (a)))
#define M_hypot1(a) (fabs(a) > 1e10 ? fabs(a) : sqrt(1.0 + (a) * (a)))
#define CYAD_NAME(f) cyad_##f##_double
#include "_loops.h"
#ifdef CYAD_X86
#undef CYAD_TARGET
#undef CYAD_NAME
#define CYAD_TARGET __attribute__((target("avx2")))
#define CYAD_NAME(f) cyad_##f##_double_avx2
#include "_loops.h"
#endif
#undef CYAD_TARGET
#undef CYAD_NAME
#undef T_
#undef T
#undef M_sqrt
#undef M_absolute
#undef M_square
#undef M_sign
#undef M_copysign
#undef M_rint
#undef M_hypot1
#undef M_leg1

#define CYAD_TARGET
#define T_ float
#define T(v) v##f
#define M_sqrt sqrtf
#define M_absolute fabsf
#define M_square(a) ((a) * (a))
#define M_sign(a) ((a) > 0 ? 1.0f : (a) < 0 ? -1.0f : (a))
#define M_copysign copysignf
#define M_rint rintf
#define M_leg1(a) sqrtf((1.0f - (a)) * (1.0f + (a)))
#define M_hypot1(a) (fabsf(a) > 1e10f ? fabsf(a) : sqrtf(1.0f + (a) * (a)))
#define CYAD_NAME(f) cyad_##f##_float
#include "_loops.h"
#ifdef CYAD_X86
#undef CYAD_TARGET
#undef CYAD_NAME
#define CYAD_TARGET __attribute__((target("avx2")))
#define CYAD_NAME(f) cyad_##f##_float_avx2
#include "_loops.h"
#endif
#undef CYAD_TARGET
#undef CYAD_NAME
#undef T_
#undef T
#undef M_sqrt
#undef M_absolute
#undef M_square
#undef M_sign
#undef M_copysign
#undef M_rint
#undef M_hypot1
#undef M_leg1

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif

/* By type: 0 double, 1 float. */
static const cyad_loops *cyad_loop[2] = {&cyad_loops_double, &cyad_loops_float};

static void cyad_choose_loops(void)
{
#ifdef CYAD_X86
    if (__builtin_cpu_supports("avx2")) {
        cyad_loop[0] = &cyad_loops_double_avx2;
        cyad_loop[1] = &cyad_loops_float_avx2;
    }
#endif
}

/* ---- NumPy's inner loops ------------------------------------------------------------------------------------------ */

typedef void (*cyad_inner)(char **args, npy_intp const *n, npy_intp const *steps, void *data);
typedef struct { cyad_inner run; void *data; } cyad_ufunc;

static cyad_ufunc cyad_primal[CYAD_OP_COUNT][2];
static cyad_ufunc cyad_function[CYAD_FUNCTION_COUNT][2];

/* A number is evaluated with steps of zero, because that is how NumPy runs over operands of size one: np.power looks
   at the step to see whether the exponent is one number (2, 0.5, -1), and rounds otherwise then. */
static inline double cyad_evaluate(int op, double x, double y)
{
    double o;
    char *args[3] = {(char *)&x, (char *)&y, (char *)&o};
    static const npy_intp one = 1, steps[3] = {0, 0, 0};
    const cyad_ufunc *u = &cyad_primal[op][0];
    if (!u->run) return NAN;
    if (cyad_arity[op] == 1) args[1] = (char *)&o;
    u->run(args, &one, steps, u->data);
    return o;
}

static inline double cyad_evaluate_float(int op, double x, double y)
{
    float fx = (float)x, fy = (float)y, o;
    char *args[3] = {(char *)&fx, (char *)&fy, (char *)&o};
    static const npy_intp one = 1, steps[3] = {0, 0, 0};
    const cyad_ufunc *u = &cyad_primal[op][1];
    if (!u->run) return cyad_evaluate(op, fx, fy);      /* float_power gives doubles */
    if (cyad_arity[op] == 1) args[1] = (char *)&o;
    u->run(args, &one, steps, u->data);
    return o;
}

/* The status that NumPy may turn into a warning: divide, overflow, underflow, invalid. Loops that raise it by
 * feraiseexcept set the word of the x87 unit, computations that of SSE. */
static inline int cyad_status(void)
{
#ifdef CYAD_X86
    unsigned short x87;
    __asm__ volatile ("fnstsw %0" : "=am"(x87));
    return ((_mm_getcsr() | x87) & (_MM_EXCEPT_INVALID | _MM_EXCEPT_DIV_ZERO | _MM_EXCEPT_OVERFLOW
                                    | _MM_EXCEPT_UNDERFLOW)) != 0;
#else
    return fetestexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW | FE_UNDERFLOW) != 0;
#endif
}

static inline void cyad_clear_status(void)
{
#ifdef CYAD_X86
    _mm_setcsr(_mm_getcsr() & ~(unsigned)_MM_EXCEPT_MASK);
    __asm__ volatile ("fnclex");
#else
    feclearexcept(FE_ALL_EXCEPT);
#endif
}

/* The ufunc itself on flat memory. 0; 1 if a warning is due; -1 if it has no loop of this type. */
static inline int cyad_evaluate_array(int op, int f32, npy_intp n, char *x, npy_intp sx, char *y, npy_intp sy,
                                      char *out, npy_intp so)
{
    const cyad_ufunc *u = &cyad_primal[op][f32];
    if (!u->run) return -1;
    if (cyad_status()) cyad_clear_status();
    if (n == 1) sx = sy = so = 0;
    if (cyad_arity[op] == 1) {
        char *args[2] = {x, out};
        npy_intp steps[2] = {sx, so};
        u->run(args, &n, steps, u->data);
    } else {
        char *args[3] = {x, y, out};
        npy_intp steps[3] = {sx, sy, so};
        u->run(args, &n, steps, u->data);
    }
    return cyad_status();
}

/* ---- one block ---------------------------------------------------------------------------------------------------- */

typedef struct {
    const cyad_program *program;
    const cyad_loops *loops;
    npy_intp lanes, seed_lane, target_lane;
    npy_intp item, room;        /* bytes of a number; elements of a scratch register */
    char *scratch;
    int f32, assign, strong;
    float c32;                  /* the constant of the program, should it be one */
} cyad_job;

/* The partial of a block: a pointer to its first value, and its stride. */
static const char *cyad_partial(const cyad_job *job, npy_intp n, char *const *at, const npy_intp *stride,
                                npy_intp *result)
{
    const cyad_program *program = job->program;
    const npy_intp item = job->item, size = job->room * 8;
    char *r[CYAD_REGISTERS];
    npy_intp rs[CYAD_REGISTERS];
    int i, j;

    switch (program->kind) {
    case CYAD_STEPS:
        break;
    case CYAD_BARE:
        *result = stride[program->r];
        return at[program->r];
    default:
        *result = 0;
        return job->f32 ? (const char *)&job->c32 : (const char *)&program->c;
    }
    for (i = 0; i < 3; i++) {
        if (!(program->reads >> i & 1)) continue;
        r[i] = at[i];
        rs[i] = stride[i];
        if (n > 1 && rs[i] != item && rs[i] != 0) {
            job->loops->gather(n, at[i], rs[i], r[i] = job->scratch + i * size);
            rs[i] = item;
        }
    }
    for (i = 0; i < program->nsteps; i++) {
        const cyad_step *step = program->steps + i;
        char *out = job->scratch + (3 + i) * size;
        int moves = 0;
        for (j = 0; j < step->nin; j++) moves |= rs[step->in[j]] != 0;
        r[3 + i] = out;
        rs[3 + i] = moves ? item : 0;    /* what does not move is computed once */
        if (step->call && step->fn == CYAD_FUNCTION_power && rs[step->in[1]] == 0
            && (job->f32 ? *(float *)r[step->in[1]] == 1.0f : *(double *)r[step->in[1]] == 1.0)) {
            r[3 + i] = r[step->in[0]];      /* x**2 is too common to compute x**1 */
            rs[3 + i] = rs[step->in[0]];
        } else if (step->call) {
            const cyad_ufunc *u = &cyad_function[step->fn][job->f32];
            char *args[5];
            npy_intp steps[5], count = moves ? n : 1;
            for (j = 0; j < step->nin; j++) {
                args[j] = r[step->in[j]];
                steps[j] = rs[step->in[j]];
            }
            args[j] = out;
            steps[j] = item;
            u->run(args, &count, steps, u->data);
        } else {
            char *in[4];
            for (j = 0; j < step->nin; j++) {
                int k = step->in[j];
                if (moves && rs[k] == 0 && n > 1) {
                    job->loops->gather(n, r[k], 0, job->scratch + k * size);
                    r[k] = job->scratch + k * size;
                    rs[k] = item;
                }
                in[j] = r[k];
            }
            job->loops->segments[step->fn](moves ? n : 1, in, out);
        }
    }
    *result = rs[program->r];
    return r[program->r];
}

/* A block whose target moves. */
static void cyad_block(const cyad_job *job, npy_intp n, char *const *at, const npy_intp *stride)
{
    npy_intp sp, lane;
    const char *p = cyad_partial(job, n, at, stride, &sp);
    for (lane = 0; lane < job->lanes; lane++) {
        job->loops->multiply_add(n, at[SEED] + lane * job->seed_lane, stride[SEED], p, sp,
                                 at[TARGET] + lane * job->target_lane, stride[TARGET], job->assign, job->strong);
    }
}

/* ---- many blocks -------------------------------------------------------------------------------------------------- */

typedef struct { npy_intp n, i, s[OPERANDS]; } cyad_axis;

/* The next position of an odometer; 0 when it is back at its start. */
static int cyad_next(cyad_axis *axes, int count, char **at)
{
    int j, k;
    for (j = 0; j < count; j++) {
        cyad_axis *axis = axes + j;
        if (++axis->i < axis->n) {
            for (k = 0; k < OPERANDS; k++) at[k] += axis->s[k];
            return 1;
        }
        axis->i = 0;
        for (k = 0; k < OPERANDS; k++) at[k] -= axis->s[k] * (axis->n - 1);
    }
    return 0;
}

static inline void cyad_move(char **to, char *const *from, const npy_intp *stride, npy_intp steps)
{
    int k;
    for (k = 0; k < OPERANDS; k++) to[k] = from[k] + stride[k] * steps;
}

/* All of the inner axis goes into one element of the target (for each lane). Neumaier's sum over the blocks. */
static void cyad_sum_inner(const cyad_job *job, npy_intp n, const npy_intp *stride, cyad_axis *axes, int count,
                           char **at)
{
    npy_intp first, lane, b;
    for (first = 0; first < job->lanes; first += CYAD_SUM_LANES) {
        const npy_intp lanes = job->lanes - first < CYAD_SUM_LANES ? job->lanes - first : CYAD_SUM_LANES;
        double sum[CYAD_SUM_LANES] = {0}, lost[CYAD_SUM_LANES] = {0};
        do {
            for (b = 0; b < n; b += CYAD_BLOCK) {
                const npy_intp m = n - b < CYAD_BLOCK ? n - b : CYAD_BLOCK;
                char *in[OPERANDS];
                npy_intp sp;
                const char *p;
                cyad_move(in, at, stride, b);
                p = cyad_partial(job, m, in, stride, &sp);
                for (lane = 0; lane < lanes; lane++) {
                    const double v = job->loops->dot(m, in[SEED] + (first + lane) * job->seed_lane, stride[SEED], p, sp,
                                                     job->strong);
                    const double s = sum[lane] + v;
                    if (isfinite(s)) lost[lane] += fabs(v) > fabs(sum[lane]) ? (v - s) + sum[lane] : (sum[lane] - s) + v;
                    sum[lane] = s;
                }
            }
        } while (cyad_next(axes, count, at));
        for (lane = 0; lane < lanes; lane++) {
            const double total = sum[lane] + lost[lane];
            job->loops->add_sum(1, &total, at[TARGET] + (first + lane) * job->target_lane, 0);
        }
    }
}

/* A block of the target takes the sum over the given axes; float only: double adds to the target itself. */
static void cyad_sum_outer(const cyad_job *job, npy_intp n, const npy_intp *stride, cyad_axis *axes, int count,
                           char **at)
{
    npy_intp first, lane;
    for (first = 0; first < job->lanes; first += CYAD_SUM_LANES) {
        const npy_intp lanes = job->lanes - first < CYAD_SUM_LANES ? job->lanes - first : CYAD_SUM_LANES;
        double sum[CYAD_SUM_LANES][CYAD_BLOCK];
        for (lane = 0; lane < lanes; lane++) memset(sum[lane], 0, n * sizeof(double));
        do {
            npy_intp sp;
            const char *p = cyad_partial(job, n, at, stride, &sp);
            for (lane = 0; lane < lanes; lane++) {
                job->loops->multiply_sum(n, at[SEED] + (first + lane) * job->seed_lane, stride[SEED], p, sp, sum[lane],
                                         job->strong);
            }
        } while (cyad_next(axes, count, at));
        for (lane = 0; lane < lanes; lane++) {
            job->loops->add_sum(n, sum[lane], at[TARGET] + (first + lane) * job->target_lane, stride[TARGET]);
        }
    }
}

/* All positions: `axes` holds `kept` axes along which the target moves, then `summed` ones along which it does not. */
static void cyad_run(cyad_job *job, cyad_axis *inner, npy_intp chunk, cyad_axis *axes, int kept, int summed, char **at)
{
    const npy_intp *stride = inner->s;
    const int sum_inner = inner->n > 1 && stride[TARGET] == 0;
    npy_intp start, b;
    for (start = 0; start < inner->n; start += chunk) {
        const npy_intp n = inner->n - start < chunk ? inner->n - start : chunk;
        char *outer[OPERANDS], *in[OPERANDS];
        cyad_move(outer, at, stride, start);
        do {
            if (sum_inner) {
                cyad_sum_inner(job, n, stride, axes + kept, summed, outer);
                continue;
            }
            for (b = 0; b < n; b += CYAD_BLOCK) {
                const npy_intp m = n - b < CYAD_BLOCK ? n - b : CYAD_BLOCK;
                cyad_move(in, outer, stride, b);
                if (summed && job->f32) cyad_sum_outer(job, m, stride, axes + kept, summed, in);
                else do cyad_block(job, m, in, stride); while (cyad_next(axes + kept, summed, in));
            }
        } while (cyad_next(axes, kept, outer));
    }
}

static npy_intp cyad_weight(const cyad_axis *axis)
{
    npy_intp sum = 0;
    int k;
    for (k = 0; k < OPERANDS; k++) sum += axis->s[k] < 0 ? -axis->s[k] : axis->s[k];
    return sum;
}

/* Any shape: drop, sort and join axes, choose the inner one, run. */
static __attribute__((noinline)) void cyad_general(cyad_job *job, int ndim, const npy_intp *shape, char *const *base,
                                                   const npy_intp *const *strides)
{
    char scratch[CYAD_REGISTERS * CYAD_BLOCK * 8] __attribute__((aligned(64)));
    cyad_axis axes[NPY_MAXDIMS + 1], inner;
    char *at[OPERANDS];
    int count = 0, joined, kept, tiled = 0, d, j, k;
    npy_intp chunk;

    job->scratch = scratch;
    job->room = CYAD_BLOCK;
    for (k = 0; k < OPERANDS; k++) at[k] = base[k];
    /* By increasing strides; of equals, the last axis first. */
    for (d = ndim - 1; d >= 0; d--) {
        cyad_axis axis = {shape[d], 0, {0}};
        if (axis.n == 1) continue;
        for (k = 0; k < OPERANDS; k++) axis.s[k] = strides[k] ? strides[k][d] : 0;
        for (j = count++; j > 0 && cyad_weight(axes + j - 1) > cyad_weight(&axis); j--) axes[j] = axes[j - 1];
        axes[j] = axis;
    }
    if (count == 0) {
        cyad_block(job, 1, at, (const npy_intp[OPERANDS]){0});
        return;
    }
    for (joined = 0, j = 1; j < count; j++) {
        int same = 1;
        for (k = 0; k < OPERANDS; k++) same &= axes[j].s[k] == axes[joined].s[k] * axes[joined].n;
        if (same) axes[joined].n *= axes[j].n;
        else axes[++joined] = axes[j];
    }
    count = joined + 1;
    /* A short inner axis makes way for the longest; in blocks, so that the lines it skips through stay in the cache. */
    chunk = axes[0].n;
    if (axes[0].n < CYAD_SHORT_AXIS) {
        int longest = 0;
        for (j = 1; j < count; j++) if (axes[j].n > 2 * axes[0].n && axes[j].n > axes[longest].n) longest = j;
        if (longest) {
            cyad_axis swap = axes[longest];
            for (j = longest; j > 0; j--) axes[j] = axes[j - 1];
            axes[0] = swap;
            chunk = swap.s[TARGET] ? CYAD_BLOCK : swap.n;
        }
    }
    inner = axes[0];
    /* Stable partition of the others. */
    for (kept = 0, j = 1; j < count; j++) {
        if (axes[j].s[TARGET] != 0) {
            cyad_axis axis = axes[j];
            for (k = j; k > 1 + kept; k--) axes[k] = axes[k - 1];
            axes[1 + kept++] = axis;
        }
    }
    /* An operand that runs the other way (transposed) is walked in square tiles: lines and pages are used up. */
    if (kept && chunk == inner.n && inner.s[TARGET]) {
        for (k = 0; k < OPERANDS; k++) {
            const npy_intp here = inner.s[k], next = axes[1].s[k];
            tiled |= next && (here < 0 ? -here : here) > (next < 0 ? -next : next);
        }
    }
    if (tiled) {
        const npy_intp rows = axes[1].n;
        npy_intp row;
        for (row = 0; row < rows; row += CYAD_TILE) {
            char *tile[OPERANDS];
            cyad_move(tile, at, axes[1].s, row);
            axes[1].n = rows - row < CYAD_TILE ? rows - row : CYAD_TILE;
            cyad_run(job, &inner, CYAD_TILE, axes + 1, kept, count - 1 - kept, tile);
        }
    } else {
        cyad_run(job, &inner, chunk, axes + 1, kept, count - 1 - kept, at);
    }
}

/* The stride of an operand whose memory is a plain run (item) or a single number (0); -1 for any other. */
static inline npy_intp cyad_flat(int ndim, const npy_intp *shape, const npy_intp *strides, npy_intp item)
{
    npy_intp expect = item;
    int d, run = 1, point = 1;
    for (d = ndim - 1; d >= 0; d--) {
        if (shape[d] == 1) continue;
        run &= strides[d] == expect;
        point &= strides[d] == 0;
        expect *= shape[d];
    }
    return run ? item : point ? 0 : -1;
}

static int cyad_accumulate(const cyad_program *program, int strong, int f32, int ndim, const npy_intp *shape,
                           char *x, const npy_intp *xs, char *y, const npy_intp *ys, char *o, const npy_intp *os,
                           char *seed, const npy_intp *ss, npy_intp seed_lane,
                           char *target, const npy_intp *ts, npy_intp target_lane, npy_intp lanes, int assign)
{
    static const double zero = 0.0;
    static const npy_intp still[NPY_MAXDIMS] = {0};
    char *at[OPERANDS] = {x, y, o, seed, target};
    const npy_intp *strides[OPERANDS] = {xs, ys, os, ss, ts};
    npy_intp stride[OPERANDS] = {0, 0, 0, 0, 0}, n = 1;
    cyad_job job;
    int d, k, flat = 1;

    for (d = 0; d < ndim; d++) n *= shape[d];
    if (n == 0 || lanes == 0) return 0;
    if (program->kind <= CYAD_ZERO) {
        if (program->kind == CYAD_NONE) return -1;
        if (!assign) return 0;
        at[SEED] = (char *)&zero;
        strides[SEED] = still;
        seed_lane = 0;
    }
    for (k = 0; k < program->nsteps; k++) {
        if (program->steps[k].call && !cyad_function[program->steps[k].fn][f32].run) return -1;
    }
    job.program = program;
    job.loops = cyad_loop[f32];
    job.lanes = lanes;
    job.seed_lane = seed_lane;
    job.target_lane = target_lane;
    job.item = f32 ? 4 : 8;
    job.f32 = f32;
    job.assign = assign;
    job.strong = strong;
    job.c32 = (float)program->c;
    for (k = 0; k < OPERANDS; k++) {
        if (k < SEED && !(program->reads >> k & 1)) {
            strides[k] = 0;
            at[k] = 0;
        } else {
            stride[k] = cyad_flat(ndim, shape, strides[k], job.item);
            flat &= stride[k] >= 0;
        }
    }
    if (flat && n <= CYAD_SMALL) {
        char scratch[CYAD_REGISTERS * CYAD_SMALL * 8] __attribute__((aligned(64)));
        job.scratch = scratch;
        job.room = CYAD_SMALL;
        if (stride[TARGET] || n == 1) cyad_block(&job, n, at, stride);
        else cyad_sum_inner(&job, n, stride, 0, 0, at);
    } else if (flat) {
        const npy_intp *single[OPERANDS];
        for (k = 0; k < OPERANDS; k++) single[k] = strides[k] ? stride + k : 0;
        cyad_general(&job, 1, &n, at, single);
    } else {
        cyad_general(&job, ndim, shape, at, strides);
    }
    return 0;
}

static int cyad_copy_add(int f32, int ndim, const npy_intp *shape, char *source, const npy_intp *ss, npy_intp source_lane,
                         char *target, const npy_intp *ts, npy_intp target_lane, npy_intp lanes, double scale, int assign)
{
    const cyad_program program = {CYAD_CONSTANT, 0, 0, 0, scale, 0};
    return cyad_accumulate(&program, 0, f32, ndim, shape, 0, 0, 0, 0, 0, 0, source, ss, source_lane,
                           target, ts, target_lane, lanes, assign);
}

#endif
