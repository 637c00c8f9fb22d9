"""Writes ``_partials.h``, the C side of the elementwise table. setup.py runs it before anything is compiled.

The header has three parts. The first is for everybody: op codes and the partials of scalars as one switch each. The
other two are for ``_kernels.h``: CYAD_SEGMENTS is a template, included once per number type and instruction set, of
the loops that evaluate arithmetic; CYAD_PROGRAMS holds the block programs that string them together.

It runs before the package can be imported (cyad's extensions are what is being built), so it loads its two
neighbours, which import nothing but each other, under a package name of its own.
"""
import importlib
import sys
import types
from pathlib import Path

HERE = Path(__file__).parent
MAX_STEPS = 8

HELPERS = r"""
static inline double cyad_square(double a) { return a * a; }
static inline double cyad_sign(double a) { return a > 0 ? 1.0 : a < 0 ? -1.0 : a; }
static inline double cyad_hypot1(double a) { return fabs(a) > 1e10 ? fabs(a) : sqrt(1.0 + a * a); }
static inline double cyad_leg1(double a) { return sqrt((1.0 - a) * (1.0 + a)); }

/* Exponents that a partial of a small power has, where pow would take its long way. */
static inline double cyad_power(double a, double b)
{
    return b == 1.0 ? a : b == 2.0 ? a * a : b == 0.0 ? 1.0 : b == 0.5 && a > 0 ? sqrt(a) : pow(a, b);
}

/* psi(x): reflection (DLMF 5.5.4) for x < 0, recurrence (5.5.2) up to 10, then the asymptotic series (5.11.2), whose
   first neglected term is below 5e-17 there. */
static inline double cyad_digamma(double x)
{
    double r = 0.0, z;
    if (x <= 0.0) {
        if (x == 0.0) return copysign(INFINITY, -x);
        if (x == floor(x)) return NAN;
        r = -M_PI / tan(M_PI * (x - floor(x)));
        x = 1.0 - x;
    }
    while (x < 10.0) { r -= 1.0 / x; x += 1.0; }
    z = 1.0 / (x * x);
    return r + log(x) - 0.5 / x
        - z * (1.0/12 - z * (1.0/120 - z * (1.0/252 - z * (1.0/240 - z * (1.0/132 - z * (691.0/32760 - z / 12))))));
}
"""

SCALAR_MACROS = """
#define T(v) v
#define T_ double
#define M_sqrt sqrt
#define M_absolute fabs
#define M_square cyad_square
#define M_sign cyad_sign
#define M_copysign copysign
#define M_rint rint
#define M_hypot1 cyad_hypot1
#define M_leg1 cyad_leg1
"""

PROGRAM_TYPES = """
/* A step writes register 3 + its index. fn is a segment, or an entry of cyad_functions. */
typedef struct { unsigned char call, fn, nin, in[4]; } cyad_step;
/* kind: no derivative / always zero / the constant c / the bare register r / steps, whose result is register r. */
enum { CYAD_NONE, CYAD_ZERO, CYAD_CONSTANT, CYAD_BARE, CYAD_STEPS };
typedef struct { unsigned char kind, r, nsteps, reads; double c; const cyad_step *steps; } cyad_program;
"""


def neighbours():
    """The modules ``expressions`` and ``table``, without importing cyad."""
    name = "_cyad_rules_at_build"
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [str(HERE)]
    return importlib.import_module(name + ".expressions"), importlib.import_module(name + ".table")


def scalar_case(ex, assignments):
    """Statements of one case; ``assignments`` are (condition, target, root)."""
    out = []
    for condition, target, root in assignments:
        lines, value = ex.c_lines(root, {ex.Node(leaf): leaf for leaf in ex.LEAVES})
        body = " ".join([*lines, f"*{target} = {value};"])
        out.append(f"{condition}{{ {body} }}" if lines or not condition else f"{condition}{body}")
    return out


def switch(ex, signature, cases):
    lines = [signature, "{", "    switch (op) {"]
    for name, statements in cases:
        lines += [f"    case CYAD_OP_{name}:", *("        " + s for s in statements), "        break;"]
    return [*lines, "    default: break;", "    }", "}", ""]


def scalars(ex, rules):
    """Op codes, flags and the two switches."""
    out = ["enum {", *(f"    CYAD_OP_{rule.name} = {i}," for i, rule in enumerate(rules)),
           f"    CYAD_OP_COUNT = {len(rules)}", "};", ""]
    first, second, exists, exists2, curved = [], [], [], [], []
    for rule in rules:
        parts = [ex.parse(text) if text is not None else None for text in rule.partials]
        known = all(p is None or ex.c_available(p) for p in parts)
        exists.append(known)
        if known:
            first.append((rule.name, scalar_case(ex, [
                (f"if (need & {1 << k}) ", ("px", "py")[k], p) for k, p in enumerate(parts) if p is not None])))
        # The output depends on x and y too: d/dx of a partial takes o along with the partial itself.
        roots = [(target, parts[i] and parts[j] and ex.derivative(
                    parts[i], {leaf: v for leaf, v in (("xy"[j], ex.ONE), ("o", parts[j]))}))
                 for target, i, j in (("pxx", 0, 0), ("pxy", 0, 1), ("pyy", 1, 1)) if max(i, j) < len(parts)]
        known = known and all(root is None or ex.c_available(root) for _, root in roots)
        exists2.append(known)
        curved.append(sum(1 << i for i, (_, root) in enumerate(roots) if root is not ex.ZERO))
        if known:
            conditions = {"pxx": "if (need & 1) ", "pxy": "if (need == 3) ", "pyy": "if (need & 2) "}
            second.append((rule.name, scalar_case(ex, [
                (conditions[target], target, root) for target, root in roots if root not in (None, ex.ZERO)])))
    out += ["/* Whether C has the partials (scipy alone has some functions). Of first and of second order. */",
            flags("cyad_has_partials", exists), flags("cyad_has_partials2", exists2),
            "/* Bits 0, 1, 2: the second partial xx, xy, yy is not always zero. */", flags("cyad_curved", curved),
            "/* A zero seed contributes exactly zero. */",
            flags("cyad_strong", [bool(rule.flags & 4) for rule in rules]),
            flags("cyad_arity", [len(rule.partials) for rule in rules]), ""]
    out += ["/* The partials at one point: need & 1 asks for *px, need & 2 for *py. What the row does not read may be",
            "   anything. Writes nothing where cyad_has_partials[op] is 0, or for an operand without derivative. */"]
    out += switch(ex, "static inline CYAD_INLINED void cyad_partials(int op, int need, double x, double y, double o, "
                      "double *px, double *py)", first)
    out += ["/* The second partials of the operands that need names, with the output's dependence on them. */"]
    body = switch(ex, "static inline void cyad_partials2(int op, int need, double x, double y, double o, "
                      "double *pxx, double *pxy, double *pyy)", second)
    body.insert(2, "    *pxx = *pxy = *pyy = 0.0;")
    return out + body


def flags(name, values):
    return f"static const unsigned char {name}[CYAD_OP_COUNT] = {{{', '.join(str(int(v)) for v in values)}}};"


def arrays(ex, rules):
    """The segments (a template), and the programs with the names of the functions that they call."""
    segments, functions, steps, programs = {}, {}, [], []

    def segment(node, inputs):
        lines, value = ex.c_lines(node, {n: f"r{r}[i]" for n, r in inputs.items()}, share=1)
        used = sorted(set(inputs.values()))
        body = [f"const T_ *restrict r{r} = (const T_ *)in[{i}];" for i, r in enumerate(used)]
        body += ["npy_intp i;", f"for (i = 0; i < n; i++) {{ {' '.join([*lines, f'out[i] = {value};'])} }}"]
        return segments.setdefault("\n    ".join(body), len(segments)), used

    for rule in rules:
        row = []
        for k in range(2):
            text = rule.partials[k] if k < len(rule.partials) else None
            if text is None:
                row.append("{CYAD_NONE, 0, 0, 0, 0.0, 0}")
                continue
            root = ex.parse(text)
            reads = ex.reads(root)
            if root is ex.ZERO:
                row.append("{CYAD_ZERO, 0, 0, 0, 0.0, 0}")
            elif root.op == "const":
                row.append(f"{{CYAD_CONSTANT, 0, 0, 0, {root.value.hex()}, 0}}")
            elif root.op in ex.LEAVES:
                row.append(f"{{CYAD_BARE, {ex.LEAVES.index(root.op)}, 0, {reads}, 0.0, 0}}")
            else:
                program, register = ex.block_program(root)
                assert len(program) <= MAX_STEPS
                first = len(steps)
                for kind, what, inputs in program:
                    if kind == "segment":
                        fn, inputs = segment(what, inputs)
                    else:
                        fn = functions.setdefault(what, len(functions))
                    assert len(inputs) <= 4
                    registers = ", ".join(map(str, inputs)) or 0
                    steps.append(f"{{{int(kind == 'call')}, {fn}, {len(inputs)}, {{{registers}}}}}")
                row.append(f"{{CYAD_STEPS, {register}, {len(program)}, {reads}, 0.0, cyad_steps + {first}}}")
        programs.append(f"    {{{', '.join(row)}}},    /* {rule.name} */")
    assert len(segments) < 256 and len(functions) < 256

    template = []
    for body, i in segments.items():
        template += [f"static CYAD_TARGET void CYAD_NAME(segment{i})(npy_intp n, char *const *in, T_ *restrict out)",
                     "{", "    " + body, "}"]
    template += ["static void (*const CYAD_NAME(segments)[])(npy_intp, char *const *, T_ *) = {",
                 *(f"    CYAD_NAME(segment{i})," for i in range(len(segments))), "};"]
    names = ", ".join(f'"{name}"' for name in functions)
    table = [PROGRAM_TYPES, f"enum {{ CYAD_FUNCTION_COUNT = {len(functions)}, CYAD_MAX_STEPS = {MAX_STEPS},",
             f"       CYAD_FUNCTION_power = {functions['power']} }};",
             f"static const char *const cyad_functions[] = {{{names}}};",
             "static const cyad_step cyad_steps[] = {", *(f"    {s}," for s in steps), "};",
             "static const cyad_program cyad_programs[CYAD_OP_COUNT][2] = {", *programs, "};"]
    return template, table


# The reverse sweep is a loop around cyad_partials; a call would cost it more than most operations do.
INLINED = """#if defined(__GNUC__) && defined(__OPTIMIZE__)
#define CYAD_INLINED __attribute__((always_inline))
#else
#define CYAD_INLINED
#endif"""


def header():
    ex, table = neighbours()
    template, programs = arrays(ex, table.RULES)
    return "\n".join([
        "/* Written by generate.py from table.py. */",
        "#ifndef CYAD_PARTIALS_H", "#define CYAD_PARTIALS_H", "#include <math.h>", INLINED, HELPERS, SCALAR_MACROS,
        *scalars(ex, table.RULES),
        *(f"#undef {line.split()[1].split('(')[0]}" for line in SCALAR_MACROS.strip().splitlines()),
        "#endif", "",
        "#ifdef CYAD_SEGMENTS", *template, "#endif", "",
        "#ifdef CYAD_PROGRAMS", *programs, "#endif", ""])


def main():
    target, text = HERE / "_partials.h", header()
    # An unchanged header keeps its date, so that nothing is compiled again for it.
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


if __name__ == "__main__":
    main()
