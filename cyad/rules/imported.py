"""Rules in the style of ChainRules, written elsewhere: what they are made of, and how they become rules of cyad.

    rrule(*args)            -> (y, pullback),  pullback(ybar) -> (NoTangent(), one cotangent for each argument)
    frule(tangents, *args)  -> (y, ydot),      tangents[0] belongs to the function

Either may return None: no rule for these arguments, the function is differentiated through. `import_rrule` and
`import_frule` make a `cyad.primitive` of a function and give it such a rule.

Memory. A pullback is a closure over its arguments, and the code around the call may overwrite these before it runs. For
arrays that is no matter: they are handed out as read-only views of the caller's memory, and the sweep puts that memory
back before the pullback looks at it, so nothing is copied. What cyad does not track (lists, objects) is copied first.
Plain arrays that the function captured are copied or locked by the tape, as anywhere.

Results never are views of arguments: a cotangent of such a view would be one of the argument already, and the pullback
would add it again. Those that are get copied, whether the call is differentiated or not.

Shapes are checked strictly: a cotangent that broadcasts to its argument is the most common mistake in a rule, and would
pass for right.

Rejected: copying arguments in advance (as costly as the function, mostly for nothing); one primitive for a function and
all its rules (an import with other types elsewhere would change what is here).

This is the one module of the rules that stands above the carriers: it makes primitives.
"""
import copy

import numpy as np

from cyad._primitive import primitive
from cyad._structures import flatten, is_leaf, is_structure
from cyad.activity import Active, BatchDuplicated, Const, Duplicated, Ref
from cyad.errors import ActivityError, MissingRuleError
from cyad.rules.custom import AUGMENTED, FORWARD, REVERSE, AugmentedReturn, described, ruleset

_NUMBERS = (int, float, complex, np.number)
RRULES, FRULES = {}, {}   # function -> what @rrule and @frule registered


# ---- cotangents that are no arrays ----------------------------------------------------------------------------------

class _Zero:
    """Base of the two zeros. They add and multiply as zero does, also with arrays."""

    __slots__ = ()
    __array_ufunc__ = None

    def __add__(self, other):
        return other

    __radd__ = __add__

    def __sub__(self, other):
        return -other

    def __rsub__(self, other):
        return other

    def _absorbed(self, *_):
        return self

    __mul__ = __rmul__ = __matmul__ = __rmatmul__ = __truediv__ = __neg__ = _absorbed

    def __eq__(self, other):
        return type(self) is type(other)

    def __hash__(self):
        return hash(type(self))

    def __repr__(self):
        return f"{type(self).__name__}()"


class NoTangent(_Zero):
    """The cotangent of what has no derivative: the function itself, an integer, a string.

    Immutable; threads may share one.

    >>> import cyad
    >>> cyad.NoTangent() == cyad.NoTangent(), 2.0 * cyad.NoTangent()
    (True, NoTangent())
    """

    __slots__ = ()


class ZeroTangent(_Zero):
    """A zero cotangent (or tangent) that nobody has to allocate, of any shape. Immutable; threads may share one.

    >>> import cyad
    >>> cyad.ZeroTangent() + 3.0, cyad.ZeroTangent() * 3.0
    (3.0, ZeroTangent())
    """

    __slots__ = ()


class Thunk:
    """A cotangent that is computed when somebody wants it, and once. Made by `thunk`."""

    __slots__ = ("_compute", "_value")

    def __init__(self, compute):
        self._compute = compute

    def __repr__(self):
        return "Thunk(...)"

    def value(self):
        if self._compute is not None:
            self._value = self._compute()
            self._compute = None
        return self._value


def thunk(compute):
    """A cotangent that costs something, put off: ``compute()`` is called if the argument turns out to be active, once.

    Raises ActivityError for what cannot be called; what `compute` raises passes through the sweep. A thunk belongs to
    the thread that sweeps.

    >>> import numpy as np
    >>> import cyad
    >>> def product(A, x):
    ...     return A @ x
    >>> @cyad.rrule(product)
    ... def product_rrule(A, x):
    ...     def pullback(ybar):
    ...         return cyad.NoTangent(), cyad.thunk(lambda: np.outer(ybar, x)), cyad.thunk(lambda: A.T @ ybar)
    ...     return A @ x, pullback
    >>> f, A = cyad.import_rrule(product), np.eye(2)
    >>> cyad.gradient(cyad.Reverse, lambda x: np.sum(f(A, x) ** 2), np.array([1.0, 2.0]))
    (array([2., 4.]),)
    """
    if not callable(compute):
        raise ActivityError(f"thunk takes a function without arguments, not {type(compute).__name__}")
    return Thunk(compute)


def unthunk(value):
    """The value of a thunk; anything else as it is. Raises what the thunk's function raises, in the calling thread.

    >>> import cyad
    >>> cyad.unthunk(cyad.thunk(lambda: 3.0)), cyad.unthunk(4.0)
    (3.0, 4.0)
    """
    while isinstance(value, Thunk):
        value = value.value()
    return value


class ProjectTo:
    """``ProjectTo(x)(c)``: a cotangent as one of x should be, with its shape and dtype, and real where x is real.

    A rule that computes in wider types, or in complex numbers for a real argument, ends with it. Axes of length one are
    put in or taken out; any other difference of shape is an ActivityError. Zeros stay zeros, thunks are projected when
    they are computed, and what has no derivative (integers, strings) has the cotangent NoTangent(). Tuples, lists and
    dicts are projected entry by entry; ActivityError where their lengths or types differ. Immutable; threads may share
    one.

    >>> import numpy as np
    >>> import cyad
    >>> cyad.ProjectTo(np.ones(2, np.float32))(np.array([[1.0 + 2.0j], [3.0]]))
    array([1., 3.], dtype=float32)
    >>> cyad.ProjectTo(1.0)(np.array(2.0 + 1.0j)), cyad.ProjectTo(3)(2.0)
    (2.0, NoTangent())
    """

    __slots__ = ("_dtype", "_kind", "_parts", "_shape")

    def __init__(self, x):
        self._dtype = self._shape = self._parts = None
        if isinstance(x, (tuple, list)):
            self._kind, self._parts = type(x), [ProjectTo(part) for part in x]
        elif isinstance(x, dict):
            self._kind, self._parts = dict, {key: ProjectTo(part) for key, part in x.items()}
        elif is_leaf(x):
            self._kind = np.ndarray if isinstance(x, np.ndarray) else type(x)
            self._dtype, self._shape = np.result_type(x), np.shape(x)
        else:
            self._kind = None

    def __repr__(self):
        if self._parts is not None:
            return f"ProjectTo({self._parts!r})"
        return "ProjectTo(nothing)" if self._kind is None else f"ProjectTo({self._dtype}, {self._shape})"

    def __call__(self, c):
        if self._kind is None:
            return NoTangent()
        if isinstance(c, _Zero):
            return c
        if isinstance(c, Thunk):
            return Thunk(lambda: self(unthunk(c)))
        if self._parts is not None:
            if not isinstance(c, self._kind) or len(c) != len(self._parts):
                raise ActivityError(f"a cotangent of a {self._kind.__name__} of {len(self._parts)} is one like it, not "
                                    f"{_shown(c)}")
            if isinstance(c, dict):
                return {key: project(c[key]) for key, project in self._parts.items()}
            parts = [project(part) for project, part in zip(self._parts, c, strict=True)]
            return self._kind(*parts) if hasattr(self._kind, "_fields") else self._kind(parts)
        if np.shape(c) != self._shape:
            if [n for n in np.shape(c) if n != 1] != [n for n in self._shape if n != 1]:
                raise ActivityError(f"a cotangent of shape {np.shape(c)} for a value of shape {self._shape}")
            c = np.reshape(c, self._shape)
        if self._dtype.kind == "f" and np.iscomplexobj(c):
            c = np.real(c)
        if self._kind is np.ndarray:
            c = c if isinstance(c, np.ndarray) else np.asarray(c)
            return c if c.dtype == self._dtype else c.astype(self._dtype)
        c = c[()] if isinstance(c, np.ndarray) else c
        return self._kind(c) if issubclass(type(c), _NUMBERS) else c


# ---- registering ----------------------------------------------------------------------------------------------------

def _registers(table, kind, f):
    if not callable(f):
        raise ActivityError(f"@{kind} takes the function whose rule follows, not {type(f).__name__}")

    def register(rule):
        table[f] = rule
        return rule

    return register


def rrule(f):
    """Decorator: registers a ChainRules-style reverse rule of `f`, for `import_rrule` to find. The last one counts.

    The rule is ``rrule(*args, **kwargs) -> (y, pullback)``, or None to decline; ``pullback(ybar)`` returns
    ``(NoTangent(), c_1, ..., c_n)`` with c_k = (dy/dx_k)^T ybar, an array of the shape of x_k (for complex ones with
    the conjugate transpose, df/dRe + i df/dIm), a number for a number, a zero or a `thunk`. Keyword arguments have no
    derivatives. The rule must not write into its arguments, which it gets read-only, nor into ybar.

    Raises ActivityError where `f` is no function; errors of the rule are those of `import_rrule`. For the whole
    process: all threads find the rule.

    >>> import numpy as np
    >>> import cyad
    >>> def energy(x):
    ...     return np.sum(x * x)
    >>> @cyad.rrule(energy)
    ... def energy_rrule(x):
    ...     return energy(x), lambda ybar: (cyad.NoTangent(), 2 * x * ybar)
    >>> cyad.gradient(cyad.Reverse, cyad.import_rrule(energy), np.array([1.0, 3.0]))
    (array([2., 6.]),)
    """
    return _registers(RRULES, "rrule", f)


def frule(f):
    """Decorator: registers a ChainRules-style forward rule of `f`, for `import_frule` to find. The last one counts.

    The rule is ``frule(tangents, *args, **kwargs) -> (y, ydot)``, or None to decline, with ydot = sum_k (dy/dx_k)
    tangents[k], in the structure of y. ``tangents[0]`` belongs to the function and is NoTangent(), as are those of
    arguments without derivatives; those of inactive numbers and arrays are zeros.

    Raises ActivityError where `f` is no function; errors of the rule are those of `import_frule`. For the whole
    process: all threads find the rule.

    >>> import numpy as np
    >>> import cyad
    >>> def energy(x):
    ...     return np.sum(x * x)
    >>> @cyad.frule(energy)
    ... def energy_frule(tangents, x):
    ...     return energy(x), 2 * np.sum(x * tangents[1])
    >>> cyad.gradient(cyad.Forward, cyad.import_frule(energy), np.array([1.0, 3.0]))
    (array([2., 6.]),)
    """
    return _registers(FRULES, "frule", f)


def import_rrule(f, *types, rrule=None):
    """A function like `f` whose calls are differentiated in reverse mode by a ChainRules-style rule.

    The rule is `rrule`, or what ``@cyad.rrule(f)`` registered. It is asked where the arguments are of the `types`, by
    position, None being any: a class (np.float32, float, np.ndarray, str) takes its instances, a NumPy scalar type or
    dtype also arrays of that dtype, a tuple of these any of them. Where a type does not fit, or the rule returns None,
    f is differentiated through, and so it is in forward mode unless `import_frule` gives it a rule, too:
    ``import_frule(import_rrule(f))``.

    f is assumed to read its arguments only. They may be overwritten after the call; nothing is copied but what cyad
    does not track, and results that are views of arguments. Batches take one call of the pullback for each lane. A rule
    made of NumPy operations is differentiated at higher orders like other code.

    Raises MissingRuleError where there is no rule; ActivityError, in the call, where the rule or its pullback returns
    something else than it should. Any number of threads may call the result, if they may call f and its rule.

    >>> import numpy as np
    >>> import cyad
    >>> def total(x):
    ...     return np.sum(x)
    >>> f = cyad.import_rrule(total, rrule=lambda x: (np.sum(x), lambda g: (cyad.NoTangent(), np.full(x.shape, g))))
    >>> cyad.gradient(cyad.Reverse, lambda x: f(x) ** 2, np.ones(3))
    (array([6., 6., 6.]),)
    """
    return _imported(f, types, rrule, RRULES, "rrule", {AUGMENTED: _augmented, REVERSE: _reverse})


def import_frule(f, *types, frule=None):
    """A function like `f` whose calls are differentiated in forward mode by a ChainRules-style rule.

    All is as for `import_rrule`, errors and threads, too; batches take one call of the rule for each lane.

    >>> import numpy as np
    >>> import cyad
    >>> f = cyad.import_frule(np.sin, frule=lambda tangents, x: (np.sin(x), np.cos(x) * tangents[1]))
    >>> cyad.autodiff(cyad.Forward, f, cyad.Duplicated(0.0, 2.0))
    (2.0,)
    """
    return _imported(f, types, frule, FRULES, "frule", {FORWARD: _forward})


def _imported(f, types, rule, table, kind, made):
    if not callable(f):
        raise ActivityError(f"import_{kind} takes a function, not {type(f).__name__}")
    for wanted in types:
        _check_type(wanted, kind)
    if rule is None:
        rule = table.get(getattr(f, "__cyad_imported__", f))
    if rule is None:
        raise MissingRuleError(f"{described(f)} has no {kind}: register one with @cyad.{kind}({described(f)}), or pass "
                               f"{kind}=...")
    out = f if hasattr(f, "__cyad_imported__") else _new_primitive(f)
    name = f"{getattr(rule, '__qualname__', None) or kind} (the {kind} of {described(f)})"
    for which, make in made.items():
        function = make(rule, types, name)
        function.__qualname__ = name
        ruleset(out).add(which, function)
    ruleset(out).reads_only = True
    return out


def _new_primitive(f):
    """A primitive of its own, for NumPy functions too, which cyad would otherwise see as they are."""
    def call(*args, **kwargs):
        return _apart(f(*args, **kwargs), args)

    call.__name__ = call.__qualname__ = described(f)
    call.__doc__, call.__module__, call.__wrapped__ = getattr(f, "__doc__", None), getattr(f, "__module__", None), f
    out = primitive(call)
    out.__cyad_imported__ = f
    return out


def _check_type(wanted, kind):
    for one in wanted if isinstance(wanted, tuple) else (wanted,):
        if one is not None and not isinstance(one, (type, np.dtype)):
            raise ActivityError(f"import_{kind} takes the types of the arguments, classes, dtypes, None or tuples of "
                                f"these, not {_shown(one)}; the rule is passed as {kind}=...")


def _fits(value, wanted):
    if wanted is None:
        return True
    if isinstance(wanted, tuple):
        return any(_fits(value, one) for one in wanted)
    if isinstance(wanted, np.dtype) or (isinstance(wanted, type) and issubclass(wanted, np.generic)):
        return isinstance(value, (np.ndarray, np.generic)) and np.issubdtype(value.dtype, wanted)
    return isinstance(value, wanted)


# ---- the rules that cyad runs ---------------------------------------------------------------------------------------

def _values(types, args, overwritten):
    """What the imported rule is called with; None where a type does not fit."""
    values = []
    for i, a in enumerate(args):
        if i < len(types) and not _fits(a.val, types[i]):
            return None
        values.append(copy.deepcopy(a.val) if overwritten[i] else a.val)
    return values


def _augmented(rule, types, name):
    tells = getattr(rule, "wants_activity", False)

    def augmented(config, func, RT, *args, **kwargs: Const):
        values = _values(types, args, config.overwritten[1:])
        if values is None:
            return NotImplemented
        if tells:
            values.insert(0, [not isinstance(a, Const) for a in args])
        out = rule(*values, **{key: a.val for key, a in kwargs.items()})
        if out is None:
            return NotImplemented
        if not (isinstance(out, tuple) and len(out) == 2 and callable(out[1])):
            raise ActivityError(f"{name} returned {_shown(out)}; it must return (y, pullback), or None to decline")
        return AugmentedReturn(_apart(out[0], [a.val for a in args]), None, out[1])
    return augmented


def _reverse(rule, types, name):
    def reverse(config, func, dret, pullback, *args, **kwargs: Const):
        entries = [[] for _ in args]
        for lane in range(config.width):
            # Nothing comes of a result without derivative, and under strong zero of one whose cotangent is zero.
            found = (NoTangent(),) * (len(args) + 1)
            if not isinstance(dret, Const):
                cotangent = _cotangent(dret, lane, config.width)
                if not config.strong_zero or any(np.any(leaf) for leaf in _leaves(cotangent)):
                    found = pullback(cotangent)
            if not isinstance(found, tuple) or len(found) != len(args) + 1:
                raise ActivityError(f"the pullback of {name} returned {_shown(found)}; it must return (NoTangent(), "
                                    f"and one cotangent for each of the {len(args)} arguments)")
            for i, (a, c) in enumerate(zip(args, found[1:], strict=True)):
                if isinstance(a, Const):
                    continue
                where = f"the pullback of {name}: argument {i + 1}"
                if isinstance(a, Active):
                    entries[i].append(_added(0j if np.iscomplexobj(a.val) else 0.0, c, where))
                    continue
                shadow = a.dval[lane] if a.batched else a.dval
                if isinstance(shadow, Ref):
                    shadow.value = _added(shadow.value, c, where)
                else:
                    _added(shadow, c, where)
        return (*(None if not isinstance(a, Active) else entry[0] if config.width == 1 else tuple(entry)
                  for a, entry in zip(args, entries, strict=True)), *(None for _ in kwargs))
    return reverse


def _forward(rule, types, name):
    def forward(config, func, RT, *args, **kwargs: Const):
        values = _values(types, args, (False,) * len(args))
        if values is None:
            return NotImplemented
        primal, shadows = None, []
        keywords = {key: a.val for key, a in kwargs.items()}
        for lane in range(config.width):
            tangents = [_tangent(a, lane) for a in args]
            out = rule((NoTangent(), *tangents), *values, **keywords)
            if out is None:
                return NotImplemented
            if not (isinstance(out, tuple) and len(out) == 2):
                raise ActivityError(f"{name} returned {_shown(out)}; it must return (y, ydot), or None to decline")
            primal = _apart(out[0], values) if lane == 0 else primal
            shadows.append(_like(out[1], out[0], name))
        if not config.needs_shadow:
            return primal if config.needs_primal else None
        if config.needs_primal:
            return Duplicated(primal, shadows[0]) if config.width == 1 else BatchDuplicated(primal, tuple(shadows))
        return shadows[0] if config.width == 1 else tuple(shadows)
    return forward


def _apart(out, args):
    """A result in memory of its own."""
    if isinstance(out, (float, np.generic)):
        return out
    arrays = [leaf for leaf in _leaves(args) if isinstance(leaf, np.ndarray)]

    def own(part):
        if isinstance(part, np.ndarray) and any(np.may_share_memory(part, a) for a in arrays):
            return part.copy()
        return part

    return _mapped(own, out) if arrays else out


def _leaves(value):
    return flatten(value)[0] if is_structure(value) else [value] if is_leaf(value) else []


def _cotangent(dret, lane, width):
    """What the pullback gets: read-only, in the structure of the result, NoTangent() where that has no derivative."""
    if isinstance(dret, Active):
        value = dret.val[lane] if width > 1 else dret.val
    else:
        value = dret.dval[lane] if dret.batched else dret.dval
        value = value.value if isinstance(value, Ref) else value
    return _mapped(_read_only, value)


def _read_only(part):
    if type(part) is float:
        return part
    if not is_leaf(part):
        return NoTangent()
    if not issubclass(type(part), np.ndarray):
        return part   # a number, or memory that an outer differentiation tracks
    view = part.view()
    view.flags.writeable = False
    return view


def _mapped(function, value):
    """A function applied to every part of a structure that is none itself."""
    if isinstance(value, (float, np.ndarray)) or not is_structure(value):
        return function(value)
    if isinstance(value, dict):
        return {key: _mapped(function, part) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [_mapped(function, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    leaves, rebuild = flatten(value)
    return rebuild([function(leaf) for leaf in leaves]) if leaves else value


def _tangent(a, lane):
    if isinstance(a, Const):
        return _mapped(_no_tangent, a.val)
    return _mapped(_read_only, a.dval[lane] if a.batched else a.dval)


def _no_tangent(part):
    """The tangent of what is inactive: a zero that rules can compute with, in no memory to speak of."""
    if not is_leaf(part):
        return NoTangent()
    return np.broadcast_to(np.zeros((), part.dtype), part.shape) if isinstance(part, np.ndarray) else 0.0


def _added(shadow, c, where):
    """A cotangent added to a shadow: in place for arrays; numbers are returned."""
    c = unthunk(c)
    if type(shadow) is float and type(c) is float:
        return shadow + c
    if isinstance(c, _Zero) or not is_leaf(shadow) and not is_structure(shadow):
        return shadow
    if c is None:
        raise ActivityError(f"{where} is active, its cotangent is None: return it, or NoTangent() or ZeroTangent() "
                            "where it is zero")
    if isinstance(shadow, np.ndarray):
        if not isinstance(c, (int, float, complex, np.number, np.ndarray)) or np.shape(c) != shadow.shape:
            raise ActivityError(f"{where} has shape {shadow.shape}, its cotangent is {_shown(c)}")
        shadow[...] += np.real(c) if np.iscomplexobj(c) and not np.iscomplexobj(shadow) else c
        return shadow
    if is_leaf(shadow):
        if not isinstance(c, (int, float, complex, np.number, np.ndarray)) or np.ndim(c):
            raise ActivityError(f"{where} is a number, its cotangent is {_shown(c)}")
        return shadow + (c if np.iscomplexobj(shadow) else np.real(c))
    if isinstance(shadow, (dict, tuple, list)):
        if not isinstance(c, type(shadow)) or len(c) != len(shadow):
            raise ActivityError(f"{where} is a {type(shadow).__name__} of {len(shadow)}, its cotangent is {_shown(c)}")
        if isinstance(shadow, dict):
            return {key: _added(part, c[key], f"{where}[{key!r}]") for key, part in shadow.items()}
        parts = [_added(part, own, f"{where}[{i}]") for i, (part, own) in enumerate(zip(shadow, c, strict=True))]
        return type(shadow)(*parts) if hasattr(shadow, "_fields") else type(shadow)(parts)
    return shadow


def _like(tangent, primal, name):
    """A tangent of a result, with zeros in memory where the rule returned none."""
    if not is_leaf(primal) and not is_structure(primal):
        return primal
    tangent = unthunk(tangent)
    if isinstance(tangent, _Zero) or tangent is None:
        return _mapped(lambda part: np.zeros_like(part) if isinstance(part, np.ndarray) else 0.0 if is_leaf(part) else
                       part, primal)
    if isinstance(primal, dict) and isinstance(tangent, dict) and primal.keys() == tangent.keys():
        return {key: _like(tangent[key], part, name) for key, part in primal.items()}
    if isinstance(primal, (tuple, list)) and isinstance(tangent, (tuple, list)) and len(primal) == len(tangent):
        parts = [_like(t, p, name) for t, p in zip(tangent, primal, strict=True)]
        return type(primal)(*parts) if hasattr(primal, "_fields") else type(primal)(parts)
    if is_structure(primal) and not is_structure(tangent) or np.shape(tangent) != np.shape(primal):
        raise ActivityError(f"{name} returned {_shown(tangent)} as the tangent of {_shown(primal)}")
    return tangent


def _shown(value):
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, (tuple, list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    return repr(value) if value is None or isinstance(value, (str, bool, int, float)) else f"a {type(value).__name__}"


__all__ = ["NoTangent", "ProjectTo", "ZeroTangent", "frule", "import_frule", "import_rrule", "rrule", "thunk",
           "unthunk"]
