"""Every elementwise derivative, once. Pure data: scalars, arrays, forward, reverse and the tests read it from here.

A row is: the ufunc's name; one partial for each operand, an expression (``expressions.py`` has the grammar) in the
operands ``x``, ``y`` and the output ``o``; where the tests sample each operand (away from kinks and singularities);
flags; and a note on the convention at kinks, or on a form that is not the schoolbook one. A form is chosen so that it
neither cancels nor overflows where the function itself does not; it takes the output where that saves work. What a
partial reads is derived from its expression: memory that no partial reads is never kept.

To add a function, add its row: C code, loops and tests follow. The order of the rows is the order of the op codes.
"""
from typing import NamedTuple

# Flags. STRONG: a seed that is zero contributes exactly zero, even where the partial is infinite or nan.
# HOLOMORPHIC: the partial is also the complex derivative. ANTI: of a complex operand, the derivative is that of
# conj(x). A row with neither flag refuses complex operands.
HOLOMORPHIC, ANTI, STRONG = 1, 2, 4
H, HS = HOLOMORPHIC, HOLOMORPHIC | STRONG

# Where the tests sample an operand: a union of intervals.
ANY = ((-3.0, 3.0),)
NONZERO = ((-3.0, -0.2), (0.2, 3.0))
POSITIVE = ((0.2, 4.0),)
OPEN_UNIT = ((-0.95, 0.95),)
FRACTION = ((0.05, 0.95),)
BEYOND_ONE = ((1.1, 5.0),)
INTEGER = ((-4, 4),)


class Rule(NamedTuple):
    """One row. A partial of None belongs to an operand that cannot be active; the note says why."""

    name: str
    partials: tuple[str | None, ...]
    domain: tuple[tuple[tuple[float, float], ...], ...]
    flags: int = 0
    note: str = ""


def _unary(name, dx, domain, flags=0, note=""):
    return Rule(name, (dx,), (domain,), flags, note)


def _binary(name, dx, dy, domain_x, domain_y, flags=0, note=""):
    return Rule(name, (dx, dy), (domain_x, domain_y), flags, note)


# ---- one operand -----------------------------------------------------------------------------------------------------

UNARY = (
    #       d/dx                                            sampled     flags  convention, form
    _unary("negative",   "-1",                              ANY,        H),
    _unary("positive",   "1",                               ANY,        H),
    _unary("conjugate",  "1",                               ANY,        ANTI),
    _unary("absolute",   "sign(x)",                         NONZERO,    0,     "0 at 0"),
    _unary("fabs",       "sign(x)",                         NONZERO,    0,     "0 at 0"),
    _unary("square",     "2*x",                             ANY,        H),
    _unary("sqrt",       "0.5/o",                           POSITIVE,   HS,    "at 0: inf, or 0 for a zero seed"),
    _unary("cbrt",       "1/(3*o*o)",                       NONZERO,    STRONG, "at 0: inf, or 0 for a zero seed"),
    _unary("reciprocal", "-o*o",                            NONZERO,    H),
    _unary("exp",        "o",                               ANY,        H),
    _unary("exp2",       "o*log(2)",                        ANY,        H),
    _unary("expm1",      "o + 1",                           ANY,        H),
    _unary("log",        "1/x",                             POSITIVE,   H),
    _unary("log2",       "1/(x*log(2))",                    POSITIVE,   H),
    _unary("log10",      "1/(x*log(10))",                   POSITIVE,   H),
    _unary("log1p",      "1/(1 + x)",                       POSITIVE,   H),
    _unary("sin",        "cos(x)",                          ANY,        H),
    _unary("cos",        "-sin(x)",                         ANY,        H),
    _unary("tan",        "1 + o*o",                         OPEN_UNIT,  H),
    _unary("arcsin",     "1/leg1(x)",                       OPEN_UNIT,  H,     "sqrt(1 - x*x) would cancel near 1"),
    _unary("arccos",     "-1/leg1(x)",                      OPEN_UNIT,  H,     "sqrt(1 - x*x) would cancel near 1"),
    _unary("arctan",     "1/(1 + x*x)",                     ANY,        H),
    _unary("sinh",       "cosh(x)",                         ANY,        H),
    _unary("cosh",       "sinh(x)",                         ANY,        H),
    _unary("tanh",       "(1 - o)*(1 + o)",                 ANY,        H,     "1 - o*o would cancel near 1"),
    _unary("arcsinh",    "1/hypot1(x)",                     ANY,        H,     "sqrt(1 + x*x) would overflow"),
    _unary("arccosh",    "1/(sqrt(x - 1)*sqrt(x + 1))",     BEYOND_ONE, H,     "sqrt(x*x - 1) cancels and overflows"),
    _unary("arctanh",    "1/((1 - x)*(1 + x))",             OPEN_UNIT,  H,     "1 - x*x would cancel near 1"),
    _unary("deg2rad",    "pi/180",                          ANY),
    _unary("radians",    "pi/180",                          ANY),
    _unary("rad2deg",    "180/pi",                          ANY),
    _unary("degrees",    "180/pi",                          ANY),
    _unary("frexp",      "where(x == 0, 1, o/x)",           NONZERO,    0,     "the mantissa: x times a power of two"),
)

# ---- two operands ----------------------------------------------------------------------------------------------------

# The larger operand has it all, a tie is shared; a nan wins in maximum and minimum and loses in fmax and fmin.
_HALF = "where(x == y, 0.5, where({}, {}, {}))"
# exp(-|x - y|), of which no derivative overflows, and which has the right ones at x = y; 1 for equal infinities.
_GAP = "where((x == y) & isnan(x - y), 0, x - y)"
_FADE = f"{{}}(where(x >= y, -{_GAP}, {_GAP}))"
_LARGER = f"where(x >= y, 1, {_FADE})/(1 + {_FADE})"
_SMALLER = f"where(x >= y, {_FADE}, 1)/(1 + {_FADE})"
_ATAN = "where(absolute(x) > absolute(y), {}, {})"

BINARY = (
    #        d/dx, d/dy                                                  sampled x, y       flags  convention, form
    _binary("add",          "1", "1",                                    ANY, ANY,           H),
    _binary("subtract",     "1", "-1",                                   ANY, ANY,           H),
    _binary("multiply",     "y", "x",                                    ANY, ANY,           H),
    _binary("divide",       "1/y", "-o/y",                               ANY, NONZERO,       H),
    _binary("power",        "where(y == 0, where(x == 0, 0, y/x), y*power(x, y - 1))",
                            "where(o == 0, 0, o*log(x))",                POSITIVE, NONZERO,  HS,
            "exponent 0: d/dx is 0 (also at x = 0); 0**y, y > 0: d/dy is 0; d/dy is nan for a negative base"),
    _binary("float_power",  "where(y == 0, where(x == 0, 0, y/x), y*power(x, y - 1))",
                            "where(o == 0, 0, o*log(x))",                POSITIVE, NONZERO,  HS, "as power"),
    _binary("arctan2",      _ATAN.format("(y/x)/(x*(1 + square(y/x)))", "1/(y*(1 + square(x/y)))"),
                            _ATAN.format("-1/(x*(1 + square(y/x)))", "-(x/y)/(y*(1 + square(x/y)))"),
                                                                         NONZERO, NONZERO,   0,
            "y/(x*x + y*y) and -x/(x*x + y*y) without the squares, which over- and underflow; nan at the origin"),
    _binary("hypot",        "where(o == 0, 0, x/o)", "where(o == 0, 0, y/o)", NONZERO, NONZERO, 0, "0 at the origin"),
    _binary("logaddexp",    _LARGER.format("exp", "exp"), _SMALLER.format("exp", "exp"), ANY, ANY, 0,
            "1/(1 + exp(y - x)), whose derivatives overflow; half each where both are infinite alike"),
    _binary("logaddexp2",   _LARGER.format("exp2", "exp2"), _SMALLER.format("exp2", "exp2"), ANY, ANY, 0,
            "as logaddexp"),
    _binary("maximum",      _HALF.format("(x > y) | isnan(x)", 1, 0),
                            _HALF.format("(x > y) | isnan(x)", 0, 1),    ANY, ANY,           0, "half each at a tie"),
    _binary("minimum",      _HALF.format("(x < y) | isnan(x)", 1, 0),
                            _HALF.format("(x < y) | isnan(x)", 0, 1),    ANY, ANY,           0, "half each at a tie"),
    _binary("fmax",         _HALF.format("(x > y) | isnan(y)", 1, 0),
                            _HALF.format("(x > y) | isnan(y)", 0, 1),    ANY, ANY,           0, "half each at a tie"),
    _binary("fmin",         _HALF.format("(x < y) | isnan(y)", 1, 0),
                            _HALF.format("(x < y) | isnan(y)", 0, 1),    ANY, ANY,           0, "half each at a tie"),
    _binary("fmod",         "1", "-rint((x - o)/y)",                     ANY, NONZERO,       0,
            "the quotient that the output was made with: trunc(x/y) may round to its neighbour"),
    _binary("remainder",    "1", "-rint((x - o)/y)",                     ANY, NONZERO,       0,
            "the quotient that the output was made with: floor(x/y) may round to its neighbour"),
    _binary("copysign",     "sign(x)*copysign(1, y)", "0",               NONZERO, NONZERO,   0, "0 at x = 0"),
    _binary("heaviside",    "0", "where(x == 0, 1, 0)",                  NONZERO, ANY,       0, "0 at the jump"),
    _binary("nextafter",    "1", "0",                                    ANY, ANY,           0,
            "the identity up to one rounding, and differentiated as that"),
    _binary("ldexp",        "exp2(y)", None,                             ANY, INTEGER,       0,
            "the exponent is an integer"),
)

# ---- derivative zero: listed, because absence must never mean zero ---------------------------------------------------

ZERO_UNARY = ("floor", "ceil", "trunc", "rint", "sign", "spacing", "signbit", "isnan", "isinf", "isfinite",
              "logical_not")
ZERO_BINARY = ("floor_divide", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal",
               "logical_and", "logical_or", "logical_xor")
ZERO = (tuple(_unary(name, "0", NONZERO) for name in ZERO_UNARY)
        + tuple(_binary(name, "0", "0", NONZERO, NONZERO) for name in ZERO_BINARY))

# ---- two outputs: the row that each output follows -------------------------------------------------------------------

OUTPUTS = {
    "modf":   ("positive", "trunc"),
    "frexp":  ("frexp", "trunc"),
    "divmod": ("floor_divide", "remainder"),
}

# ---- more than two operands: written in terms of others --------------------------------------------------------------

# The first three operands are x, y, z.
COMPOSITE = {
    "clip": "minimum(maximum(x, y), z)",    # NumPy's own definition; half at a bound, as minimum and maximum
}

# ---- scipy.special, bound when scipy is there and such a ufunc is met (cyad never imports it) ------------------------

_DECAY = "exp(where(x >= 0, -x, x))"     # exp(-|x|), whose derivatives at 0 those of |x| would spoil
_ORDER = "the derivative with respect to the first operand has no closed form"

SPECIAL = (
    #        d/dx                                                 sampled     flags  form, source
    _unary("erf",       "2/sqrt(pi)*exp(-x*x)",                   ANY,        H),
    _unary("erfc",      "-2/sqrt(pi)*exp(-x*x)",                  ANY,        H),
    _unary("erfcx",     "2*(x*o - 1/sqrt(pi))",                   OPEN_UNIT,  H),
    _unary("erfinv",    "sqrt(pi)/2*exp(o*o)",                    OPEN_UNIT),
    _unary("erfcinv",   "-sqrt(pi)/2*exp(o*o)",                   FRACTION),
    _unary("dawsn",     "1 - 2*x*o",                              ANY,        H),
    _unary("ndtr",      "exp(-0.5*x*x)/sqrt(2*pi)",               ANY,        H),
    _unary("log_ndtr",  "exp(-0.5*x*x - o)/sqrt(2*pi)",           ANY,        H),
    _unary("ndtri",     "sqrt(2*pi)*exp(0.5*o*o)",                FRACTION),
    _unary("expit",     f"{_DECAY}/square(1 + {_DECAY})",         ANY,        0,     "o*(1 - o) would cancel near 1"),
    _unary("logit",     "1/(x*(1 - x))",                          FRACTION),
    _unary("log_expit", f"where(x >= 0, {_DECAY}, 1)/(1 + {_DECAY})", ANY,    0,     "derivatives of exp(x) overflow"),
    _unary("exp10",     "o*log(10)",                              ANY),
    _unary("cosm1",     "-sin(x)",                                ANY),
    _unary("entr",      "-1 - log(x)",                            POSITIVE),
    _unary("gamma",     "o*psi(x)",                               POSITIVE,   H),
    _unary("gammaln",   "psi(x)",                                 POSITIVE),
    _unary("loggamma",  "psi(x)",                                 POSITIVE,   H),
    _unary("rgamma",    "-o*psi(x)",                              POSITIVE,   H),
    _unary("psi",       "zeta(2, x)",                             POSITIVE,   0,     "polygamma(1, x), DLMF 25.11.12"),
    _unary("i0",        "i1(x)",                                  ANY,        0,     "DLMF 10.29.3"),
    _unary("i1",        "0.5*(i0(x) + iv(2, x))",                 ANY,        0,     "DLMF 10.29.1; o/x is 0/0 at 0"),
    _unary("i0e",       "i1e(x) - sign(x)*o",                     NONZERO,    0,     "DLMF 10.29.3; 0 at 0"),
    _unary("i1e",       "where(x == 0, 0.5, i0e(x) - o*(sign(x) + 1/x))", NONZERO, 0, "DLMF 10.29.2"),
    _unary("k0",        "-k1(x)",                                 POSITIVE,   0,     "DLMF 10.29.3"),
    _unary("k1",        "-k0(x) - o/x",                           POSITIVE,   0,     "DLMF 10.29.2"),
    _unary("j0",        "-j1(x)",                                 ANY,        0,     "DLMF 10.6.3"),
    _unary("j1",        "0.5*(j0(x) - jv(2, x))",                 ANY,        0,     "DLMF 10.6.1; o/x is 0/0 at 0"),
    _unary("y0",        "-y1(x)",                                 POSITIVE,   0,     "DLMF 10.6.3"),
    _unary("y1",        "y0(x) - o/x",                            POSITIVE,   0,     "DLMF 10.6.2"),
    _binary("xlogy",    "log(y)", "where((x == 0) & (y == 0), 0, x/y)", ANY, POSITIVE, H),
    _binary("xlog1py",  "log1p(y)", "where((x == 0) & (y == -1), 0, x/(1 + y))", ANY, POSITIVE, H),
    _binary("rel_entr", "log(x/y) + 1", "-x/y",                   POSITIVE, POSITIVE),
    _binary("kl_div",   "log(x/y)", "1 - x/y",                    POSITIVE, POSITIVE),
    _binary("beta",     "o*(psi(x) - psi(x + y))", "o*(psi(y) - psi(x + y))", POSITIVE, POSITIVE),
    _binary("betaln",   "psi(x) - psi(x + y)", "psi(y) - psi(x + y)", POSITIVE, POSITIVE),
    _binary("zeta",     None, "-x*zeta(x + 1, y)",                BEYOND_ONE, POSITIVE, 0, _ORDER),
    _binary("jv",       None, "0.5*(jv(x - 1, y) - jv(x + 1, y))", POSITIVE, POSITIVE, 0, _ORDER + "; DLMF 10.6.1"),
    _binary("yv",       None, "yv(x - 1, y) - x*o/y",             POSITIVE, POSITIVE, 0, _ORDER + "; DLMF 10.6.2"),
    _binary("iv",       None, "0.5*(iv(x - 1, y) + iv(x + 1, y))", POSITIVE, POSITIVE, 0, _ORDER + "; DLMF 10.29.1"),
    _binary("kv",       None, "-kv(x - 1, y) - x*o/y",            POSITIVE, POSITIVE, 0, _ORDER + "; DLMF 10.29.2"),
    _binary("gammainc", None, "exp(xlogy(x - 1, y) - y - gammaln(x))", POSITIVE, POSITIVE, 0, _ORDER + "; DLMF 8.8.13"),
    _binary("gammaincc", None, "-exp(xlogy(x - 1, y) - y - gammaln(x))",
                                                                  POSITIVE, POSITIVE, 0, _ORDER + "; DLMF 8.8.14"),
)

# ---- functions of Python's math module: the row that each follows ----------------------------------------------------

MATH = {
    "acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "asinh": "arcsinh", "atan": "arctan", "atan2": "arctan2",
    "atanh": "arctanh", "cbrt": "cbrt", "copysign": "copysign", "cos": "cos", "cosh": "cosh", "degrees": "degrees",
    "erf": "erf", "erfc": "erfc", "exp": "exp", "exp2": "exp2", "expm1": "expm1", "fabs": "fabs", "fmod": "fmod",
    "gamma": "gamma", "ldexp": "ldexp", "lgamma": "gammaln", "log": "log", "log10": "log10", "log1p": "log1p",
    "log2": "log2", "nextafter": "nextafter", "pow": "power", "radians": "radians", "sin": "sin", "sinh": "sinh",
    "sqrt": "sqrt", "tan": "tan", "tanh": "tanh", "ulp": "spacing",
}

RULES = UNARY + BINARY + ZERO + SPECIAL
BY_NAME = {rule.name: rule for rule in RULES}
SPECIAL_NAMES = frozenset(rule.name for rule in SPECIAL)
