"""Rules that users write: how they are registered, and how a call finds the one that fits.

A function's rules are a `RuleSet`, kept on the primitive (`cyad.primitive`), or in `OVERRIDES` for NumPy and SciPy
functions. A rule is an ordinary function whose hints say which activities it takes. What runs rules is
`_primitive.pyx`; nothing here knows a carrier, a tape or an array.

How a rule is chosen. Every parameter with a hint must take the activity that cyad met; one without takes any. Of the
rules that do, the one whose hints say most wins (`Duplicated` says more than `Const | Duplicated`, that more than
no hint), and of equals the one registered last. A rule may decline, before it has written anything, by returning
NotImplemented: then the next one is asked, and if none is left the function is differentiated through.

The choice is made once for each combination of activities and kept, because calls must stay cheap.

For layers that make rules of rules (imported ones): `ruleset(f)` is the RuleSet, `RuleSet.add(kind, function)`
registers a function without hints written `(config, func, RT, *args, **kwargs)`, as the decorators do, and
returning NotImplemented says "not for these".

Rejected: `functools.singledispatch` (one argument), registering by type of value (what is differentiated is a matter of
activity; a rule that depends on values looks at them and declines), and hints evaluated at each call.

Thread safety: calls in any number of threads. Rules belong to the process; registering and removing them while others
differentiate is safe, and they see the change or not. One thread at a time changes the rules of a function: of two
changes at once one may be lost.
"""
import contextlib
import functools
import inspect
import threading
import types
import typing
from typing import NamedTuple

import numpy as np

from cyad.activity import Annotation, Const
from cyad.errors import ActivityError
from cyad.rules.visible import is_library_function, original, redirect

OVERRIDES = {}      # NumPy function or ufunc -> RuleSet; empty as long as nobody registers one

FORWARD, AUGMENTED, REVERSE, EASY = "forward", "augmented_primal", "reverse", "easy_rule"
_LEADING = {FORWARD: ("config", "func", "RT"), AUGMENTED: ("config", "func", "RT"),
            REVERSE: ("config", "func", "dret", "tape"), EASY: ("out",)}

_scopes = threading.local()
_visible = {}       # Python function of a library -> (RuleSet, what makes it invisible again)
_primitive = None


class AugmentedReturn(NamedTuple):
    """What an augmented_primal rule returns: the primal, the shadow of an array result (or None), the tape.

    `primal` may be None where the config does not need it. `shadow` may be None: cyad then makes one, and gives it
    to the reverse rule as ``dret.dval``. `tape` is anything; the reverse rule gets it as it is, in the thread that
    sweeps. Raises nothing; what does not fit is an ActivityError of the call.

    >>> from cyad.rules import AugmentedReturn
    >>> AugmentedReturn(2.0, None, "kept").tape
    'kept'
    """

    primal: object = None
    shadow: object = None
    tape: object = None


def needs_primal(config):
    """Whether the rule's result must hold the primal.

    False only where the primitive itself is what `autodiff` was given, and nobody asked for the value. Raises nothing;
    a config belongs to the call that made it, and to its thread.

    >>> import cyad, numpy as np
    >>> @cyad.primitive
    ... def cube(x):
    ...     return x**3
    >>> @cyad.rules.forward(cube)
    ... def cube_forward(config, func, RT, x: cyad.Duplicated):
    ...     shadow = 3 * x.val**2 * x.dval
    ...     return cyad.Duplicated(func.val(x.val), shadow) if cyad.rules.needs_primal(config) else shadow
    >>> cyad.autodiff(cyad.Forward, cube, cyad.Duplicated(2.0, 1.0))
    (12.0,)
    """
    return config.needs_primal


def needs_shadow(config):
    """Whether the rule's result must hold a shadow; errors and threads as for `needs_primal`. See `AugmentedReturn`.

    >>> import cyad
    >>> @cyad.primitive
    ... def f(x):
    ...     return x + 1.0
    >>> @cyad.rules.forward(f)
    ... def f_forward(config, func, RT, x: cyad.Duplicated):
    ...     return x.dval if cyad.rules.needs_shadow(config) else None
    >>> cyad.autodiff(cyad.Forward, f, cyad.Const, cyad.Duplicated(2.0, 1.0))
    ()
    """
    return config.needs_shadow


def overwritten(config):
    """For the function and each of its arguments, whether `reverse` may find it changed: a tuple of bool, the
    function first.

    False wherever cyad puts memory back by itself, which is all that it tracks; True for mutable objects that it
    knows nothing of. Errors and threads as for `needs_primal`.

    >>> import cyad, numpy as np
    >>> @cyad.primitive
    ... def f(x):
    ...     return np.sum(x**2)
    >>> @cyad.rules.augmented_primal(f)
    ... def f_augmented(config, func, RT, x: cyad.Duplicated):
    ...     kept = x.val.copy() if cyad.rules.overwritten(config)[1] else None
    ...     return cyad.rules.AugmentedReturn(func.val(x.val), None, kept)
    >>> @cyad.rules.reverse(f)
    ... def f_reverse(config, func, dret, tape, x: cyad.Duplicated):
    ...     x.dval[:] += 2 * (x.val if tape is None else tape) * dret.val
    ...     return (None,)
    >>> cyad.gradient(cyad.Reverse, f, np.array([1.0, 2.0]))
    (array([2., 4.]),)
    """
    return config.overwritten


# ---- hints ----------------------------------------------------------------------------------------------------------

EXACT, ONE_OF, BASE, ANY = range(4)    # how well a hint fits, best first


def _classes(hint):
    """The classes that a hint names, None for one that takes anything; `type[X]` counts as X, `X[int]` as X."""
    if hint in (typing.Any, object, inspect.Parameter.empty, type):
        return None
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _classes(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        parts = [_classes(part) for part in typing.get_args(hint)]
        return None if None in parts else tuple(dict.fromkeys(c for part in parts for c in part))
    if origin in (type, typing.Type):  # noqa: UP006  (users write either)
        return _classes(typing.get_args(hint)[0])
    hint = origin if origin is not None else hint
    if isinstance(hint, type) and issubclass(hint, Annotation):
        return (hint,)
    raise ActivityError(f"{hint!r} is no activity; hint Const, Active, Duplicated, ..., a union of these, or nothing")


def _is_class_hint(hint):
    """Whether a hint says `type[...]`: the rule wants the activity, not a value of it."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is_class_hint(part) for part in typing.get_args(hint))
    return hint is type or origin is type


def _evaluated(function, name, hint):
    """A postponed (string) annotation as what it stands for."""
    if not isinstance(hint, str):
        return hint
    import cyad

    closure = inspect.getclosurevars(function).nonlocals if isinstance(function, types.FunctionType) else {}
    try:
        return eval(hint, {**vars(typing), **vars(cyad), **getattr(function, "__globals__", {}), **closure})
    except (NameError, SyntaxError, AttributeError, TypeError) as error:
        raise ActivityError(f"the hint {hint!r} of {name!r} in the rule {function.__qualname__} cannot be evaluated: "
                            f"{error}") from error


def _fit(classes, activity):
    """How well a hint takes an activity; None where it does not."""
    if classes is None:
        return ANY
    if activity in classes:
        return EXACT if len(classes) == 1 else ONE_OF
    return BASE if issubclass(activity, classes) else None


class Rule:
    """One registered function, with what its hints say."""

    __slots__ = ("classes", "function", "keywords", "kind", "leading", "name", "parameters", "required", "rest",
                 "rest_keywords", "says_const", "shown", "wants_class")

    def __init__(self, kind, function):
        self.kind = kind
        self.function = function
        self.name = getattr(function, "__qualname__", repr(function))
        hints = inspect.get_annotations(function) if hasattr(function, "__annotations__") else {}
        signature = inspect.signature(function).parameters.values()
        plain = [p for p in signature if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        leading = _LEADING[kind]
        self.rest = next((p for p in signature if p.kind is p.VAR_POSITIONAL), None)
        if len(plain) < len(leading) and self.rest is None:
            raise TypeError(f"the {kind} rule {self.name} takes {len(plain)} arguments; its first ones are "
                            f"({', '.join(leading)}), the arguments of the function follow")
        none = inspect.Parameter.empty
        evaluated = {p.name: _evaluated(function, p.name, hints.get(p.name, none)) for p in signature}
        self.shown = {name: "" if hint is none else _hint_name(hint) for name, hint in evaluated.items()}
        self.classes = {name: _classes(hint) if name not in ("config", "tape") and kind != EASY else None
                        for name, hint in evaluated.items()}
        self.wants_class = kind == REVERSE and len(plain) > 2 and _is_class_hint(evaluated[plain[2].name])
        self.leading = [p.name for p in plain[:len(leading)]]
        # Whether the hint of the return names Const: the rule knows that there may be no derivative.
        self.says_const = len(self.leading) > 2 and Const in (self.classes[self.leading[2]] or ())
        self.parameters = [p.name for p in plain[len(leading):]]
        self.required = sum(p.default is p.empty for p in plain[len(leading):])
        self.keywords = {p.name for p in signature if p.kind is p.KEYWORD_ONLY} | set(self.parameters)
        self.rest_keywords = next((p for p in signature if p.kind is p.VAR_KEYWORD), None)

    def takes(self, count, names):
        """Whether the rule can be called with so many positional arguments and these keywords."""
        if count > len(self.parameters) and self.rest is None:
            return False
        given = set(self.parameters[:count])
        if count < self.required and not set(self.parameters[count:self.required]) <= set(names):
            return False
        return all((name in self.keywords and name not in given) or self.rest_keywords is not None for name in names)

    def classes_of(self, index, names, count):
        """What the hint of the argument says that is the index-th, keywords after positional ones."""
        if index < count:
            parameter = self.parameters[index] if index < len(self.parameters) else self.rest.name
        else:
            name = names[index - count]
            parameter = name if name in self.keywords else self.rest_keywords.name
        return self.classes[parameter]

    def score(self, func, ret, activities, names):
        """How little the hints say (less is better) where they take the activities; None where they do not."""
        count = len(activities) - len(names)
        if not self.takes(count, names):
            return None
        total = 0
        for parameter, activity in zip(self.leading[1:3], (func, ret), strict=False):
            fit = _fit(self.classes[parameter], activity) if activity is not None else ANY
            if fit is None:
                return None
            total += fit
        for i, activity in enumerate(activities):
            fit = _fit(self.classes_of(i, names, count), activity)
            if fit is None:
                return None
            total += fit
        return total

    def accepts(self, ret):
        """Whether the hint of the return takes this activity."""
        return _fit(self.classes[self.leading[2]], ret) is not None if len(self.leading) > 2 else True

    def demands(self, ret):
        """Whether the rule has a hint that says its return is of this activity."""
        return len(self.leading) > 2 and (self.classes[self.leading[2]] or ()) != () and self.accepts(ret)

    def signature(self):
        """As an error message shows it."""
        names = [*self.leading[1:], *self.parameters]
        shown = [f"{n}: {self.shown[n]}" if self.shown[n] else n for n in names if n != "tape"]
        if self.rest is not None:
            shown.append(f"*{self.rest.name}: {self.shown[self.rest.name]}".removesuffix(": "))
        return f"{self.name}({', '.join(shown)})"


def _hint_name(hint):
    return hint.__name__ if isinstance(hint, type) and typing.get_origin(hint) is None else \
        str(hint).replace("cyad.activity.", "").replace("typing.", "")


# ---- the rules of one function --------------------------------------------------------------------------------------

class RuleSet:
    """The rules of one function.

    `reads_only` says that the function and its rules write no argument: nothing is saved for fear that they might, they
    are given read-only views, and arrays without derivatives stay Const.
    """

    __slots__ = ("cache", "filled", "last", "name", "reads_only", "rules")

    def __init__(self, name):
        self.name = name
        self.reads_only = False
        self.rules = {kind: [] for kind in _LEADING}
        self.cache, self.filled, self.last = {}, False, None

    def add(self, kind, function):
        """Registers a function as a rule (one of FORWARD, AUGMENTED, REVERSE, EASY); it wins over equals that came
        before."""
        rule = Rule(kind, function)
        self._set({**self.rules, kind: [*self.rules[kind], rule]})
        for scope in getattr(_scopes, "open", ()):
            scope.append((self, rule))
        return rule

    def discard(self, rule):
        """Takes out a Rule, or what was registered with this function; whether there was something."""
        kept = {kind: [r for r in rules if r is not rule and r.function is not rule]
                for kind, rules in self.rules.items()}
        found = any(len(kept[kind]) < len(self.rules[kind]) for kind in kept)
        self._set(kept)
        return found

    def has(self, forward):
        """Whether there is a rule for forward (reverse) mode."""
        rules = self.rules
        return bool(rules[EASY] or (rules[FORWARD] if forward else rules[AUGMENTED] and rules[REVERSE]))

    def clear(self):
        """Takes out all rules."""
        self._set({kind: [] for kind in _LEADING})

    def _set(self, rules):
        # In this order: who reads meanwhile may choose among the old rules, but keeps no old choice.
        self.rules = rules
        self.cache, self.last = {}, None
        self.filled = any(rules.values())

    def pick(self, kind, func, rets, activities, names):
        """The rules that fit, best first, as ``[(rule, ret, activities)]``.

        `rets` are the activities that the return may be taken for, and an entry of `activities` may be a tuple of
        such, in order of preference.
        """
        key = (kind, func, rets, activities, names)
        cache = self.cache
        found = cache.get(key)
        if found is None:
            found = cache[key] = self._ranked(kind, func, rets, activities, names)
        return found

    def _ranked(self, kind, func, rets, activities, names):
        ranked = []
        for order, rule in enumerate(self.rules[kind]):
            best = None
            for demotion, (i, ret) in enumerate((i, ret) for i in (0, 1) for ret in rets):
                # First the activities that cyad prefers, then the others.
                taken = tuple(a if not isinstance(a, tuple) else a[min(i, len(a) - 1)] for a in activities)
                fit = rule.score(func, ret, taken, names)
                if fit is None and i:
                    taken = self._mixed(rule, activities, names)
                    fit = None if taken is None else rule.score(func, ret, taken, names)
                if fit is not None and (best is None or (demotion, fit) < best[0]):
                    best = ((demotion, fit), ret, taken)
            if best is not None:
                ranked.append((*best[0], -order, rule, best[1], best[2]))
        ranked.sort(key=lambda r: r[:3])
        return [r[3:] for r in ranked]

    @staticmethod
    def _mixed(rule, activities, names):
        """For each argument the first of its activities that the hint takes; None where the rule has another arity."""
        count = len(activities) - len(names)
        if not rule.takes(count, names):
            return None
        taken = []
        for i, a in enumerate(activities):
            several = a if isinstance(a, tuple) else (a,)
            classes = rule.classes_of(i, names, count)
            taken.append(next((b for b in several if _fit(classes, b) is not None), several[0]))
        return tuple(taken)

    def unmatched(self, kind, func, rets, activities, names):
        """The message of an error: what was met, and what the rules take."""
        met = [a[0] if isinstance(a, tuple) else a for a in activities]
        count = len(met) - len(names)
        shown = [a.__name__ for a in met[:count]]
        shown += [f"{n}={a.__name__}" for n, a in zip(names, met[count:], strict=True)]
        if func is not None and func.__name__ != "Const":
            shown.insert(0, f"the function itself: {func.__name__}")
        if kind != REVERSE and rets:
            shown.append(f"return: {rets[0].__name__}")
        have = "; ".join(rule.signature() for rule in self.rules[kind]) or "there is none"
        return (f"no {kind} rule of {self.name} takes the activities met: ({', '.join(shown)}). Its {kind} rules: "
                f"{have}. Add a rule for these activities, widen the hints of one, or leave them out")


def register_primitive(primitive):
    """Told once, by `_primitive`: how a primitive is made that rules know under the name of another function."""
    global _primitive
    _primitive = primitive


def ruleset(f, create=True):
    """The RuleSet of a function; made if need be.

    Raises TypeError for functions whose calls cyad cannot see.
    """
    own = getattr(f, "__cyad_rules__", None)
    if isinstance(own, RuleSet):
        return own
    if isinstance(f, np.ufunc) or (callable(f) and hasattr(f, "_implementation")):
        found = OVERRIDES.get(f)
        if found is None and create:
            found = OVERRIDES[f] = RuleSet(f"{getattr(f, '__module__', None) or 'numpy'}.{f.__name__}")
        return found
    if is_library_function(f):
        if f not in _visible and create:
            made = _primitive(original(f), f)
            _visible[f] = (made.__cyad_rules__, redirect(f, made))
        return _visible[f][0] if f in _visible else None
    if not create:
        return None
    if not callable(f):
        raise TypeError(f"a rule belongs to a function, not to a {type(f).__name__}")
    raise TypeError(f"calls of {described(f)} are invisible to cyad, so a rule would never be asked: decorate it with "
                    "@cyad.primitive (or write f = cyad.primitive(f) and call that) and give the rule to the primitive")


def _register(kind, f):
    rules = ruleset(f)

    def register(function):
        if not callable(function):
            raise TypeError(f"a rule is a function, not a {type(function).__name__}")
        rules.add(kind, function)
        return function

    return register


def forward(f):
    """Decorator: the forward rule of a primitive, NumPy function or ufunc.

    The rule is called as ``rule(config, func, RT, *args)``: `func` and the arguments are annotated values, whose
    ``val`` and ``dval`` are plain numbers and arrays (tuples of W shadows for BatchDuplicated). It computes the
    tangents: those of arrays in place (``y.dval[:] = ...``), that of the result by returning it:
    ``Duplicated(primal, shadow)``, only the shadow or only the primal where `needs_primal`, `needs_shadow` say no
    more is wanted, or None for a function that returns nothing. `RT` is the activity of the return.

    Raises TypeError for functions that cyad cannot see, and where the rule is no function or takes too few arguments;
    ActivityError for hints that are no activities; in the call, MissingRuleError where no rule takes the activities
    met, ActivityError where the rule returns something else. For the whole process: all threads see the rule.

    >>> import numpy as np
    >>> import cyad
    >>> from cyad import Duplicated, Forward, autodiff, rules
    >>> @cyad.primitive
    ... def square(x):
    ...     return x**2
    >>> @rules.forward(square)
    ... def square_forward(config, func, RT, x: Duplicated):
    ...     return Duplicated(func.val(x.val), 2 * x.val * x.dval)
    >>> autodiff(Forward, lambda x: 1.0 + square(x), Duplicated(3.0, 1.0))
    (6.0,)
    """
    return _register(FORWARD, f)


def augmented_primal(f):
    """Decorator: the first half of a reverse rule, which runs when the function is called.

    Called as ``rule(config, func, RT, *args)``; returns ``AugmentedReturn(primal, shadow, tape)``. It must do
    everything that the function does to its arguments, also where the primal is not needed. Shadows have no values
    yet (reading gives NaN). See `reverse`.

    Raises what `forward` does, in the call MissingRuleError also where there is no `reverse`. For the whole process:
    all threads see the rule.

    >>> import cyad
    >>> from cyad import Active, Reverse, gradient, rules
    >>> @cyad.primitive
    ... def root(x):
    ...     return x**0.5
    >>> @rules.augmented_primal(root)
    ... def root_augmented(config, func, RT, x: Active):
    ...     y = func.val(x.val)
    ...     return rules.AugmentedReturn(y, None, y)
    >>> @rules.reverse(root)
    ... def root_reverse(config, func, dret, tape, x: Active):
    ...     return (dret.val / (2 * tape),)
    >>> gradient(Reverse, root, 4.0)
    (0.25,)
    """
    return _register(AUGMENTED, f)


def reverse(f):
    """Decorator: the second half of a reverse rule, which runs when the tape is swept.

    Called as ``rule(config, func, dret, tape, *args)``. For a result that is a number `dret` is Active, and
    ``dret.val`` its adjoint (a tuple of W for width W); for arrays it is Duplicated with the result and its shadow
    (the class itself where the hint says ``type[...]``); Const for a result without derivative. `tape` is what
    augmented_primal returned. Memory is as augmented_primal left it, and can only be read.

    The rule adds to the shadows of arguments, ``x.dval[:] += ...``, zeroes those of memory that the function
    overwrote, and returns a tuple with one entry for each argument: the derivative for Active ones (a tuple of W of
    them for width W), None for all others.

    Raises what `forward` does. For the whole process: all threads see the rule, which runs in the one that sweeps.

    >>> import numpy as np
    >>> import cyad
    >>> from cyad import Active, Const, Reverse, gradient, rules
    >>> @cyad.primitive
    ... def times(x, a):
    ...     return a * x
    >>> @rules.augmented_primal(times)
    ... def times_augmented(config, func, RT, x: Active, a: Const):
    ...     return rules.AugmentedReturn(func.val(x.val, a.val), None, None)
    >>> @rules.reverse(times)
    ... def times_reverse(config, func, dret, tape, x: Active, a: Const):
    ...     return (a.val * dret.val, None)
    >>> gradient(Reverse, lambda x: times(x, 5.0), 2.0)
    (5.0,)
    """
    return _register(REVERSE, f)


def easy_rule(f):
    """Decorator: both modes at once, from the partial derivatives.

    ``rule(out, *args)`` gets the result and the plain arguments and returns one tuple for each result (a function
    that returns no tuple has one) with one partial for each argument: of shape out.shape + in.shape, a number where
    both are numbers, or `Constant` for zero. Partials are taken when the function is called, so arguments may be
    overwritten later. The arguments are those of the function's signature, with its defaults, where the rule takes
    as many. The function must neither write its arguments nor return views of them.

    Raises TypeError as `forward` does; ActivityError (also a TypeError), in the call, where partials are too few, too
    many or of other shapes, and where the function wrote an argument or returned a view of one. For the whole process:
    all threads see the rule.

    >>> import numpy as np
    >>> import cyad
    >>> from cyad import Reverse, gradient, rules
    >>> @cyad.primitive
    ... def norm2(x, a):
    ...     return a * np.sum(x * x)
    >>> @rules.easy_rule(norm2)
    ... def norm2_partials(out, x, a):
    ...     return ((2 * a * x, out / a),)
    >>> gradient(Reverse, norm2, np.array([1.0, 2.0]), 3.0)
    (array([ 6., 12.]), 5.0)
    """
    return _register(EASY, f)


def has_rule(f, mode):
    """Whether calls of `f` are differentiated by a rule in this mode: one registered here, or for NumPy functions
    one of cyad's own.

    `mode` is a `cyad.Mode`, of which it counts whether it is forward. Raises nothing: what cannot have a rule has none.
    Any number of threads may call it.

    >>> import numpy as np
    >>> from cyad import Reverse
    >>> from cyad.rules import has_rule
    >>> has_rule(np.sin, Reverse), has_rule(print, Reverse)
    (True, False)
    """
    rules = ruleset(f, create=False)
    return bool(rules is not None and rules.has(mode.forward) or _is_built_in(f))


def _is_built_in(f):
    from cyad.rules import registry
    from cyad.rules._kernels import rows_by_name

    if isinstance(f, np.ufunc):
        row = rows_by_name.get(f.__name__)
        return row is not None and row.ufunc is f or registry.lookup(f) is not None or registry.is_zero(f)
    return hasattr(f, "_implementation") and (registry.lookup(f) is not None or registry.is_zero(f))


def remove(f, rule=None):
    """Takes back a rule of `f`, the function that was registered, or all of them: for the whole process.

    Raises KeyError where there is none. One thread at a time may change the rules of a function; calls of others that
    run meanwhile see the change or not.

    >>> import cyad
    >>> from cyad import Forward, rules
    >>> @cyad.primitive
    ... def f(x):
    ...     return x
    >>> @rules.easy_rule(f)
    ... def f_partials(out, x):
    ...     return ((1.0,),)
    >>> rules.remove(f)
    >>> rules.has_rule(f, Forward)
    False
    """
    rules = ruleset(f, create=False)
    if rules is None or not rules.filled:
        raise KeyError(f"{getattr(f, '__qualname__', f)} has no rule")
    if rule is None:
        rules.clear()
    elif not rules.discard(rule):
        raise KeyError(f"{getattr(rule, '__qualname__', rule)} is no rule of {rules.name}")
    _forget(rules)


def _forget(rules):
    if not rules.filled:
        for f in [f for f, own in OVERRIDES.items() if own is rules]:
            del OVERRIDES[f]
        for f in [f for f, own in _visible.items() if own[0] is rules]:
            _visible.pop(f)[1]()


@contextlib.contextmanager
def scope():
    """Rules that this thread registers inside the ``with`` block are taken back at its end.

    Until then all threads see them; what other threads register stays. Raises nothing itself; errors inside the block
    pass through, and the rules are taken back.

    >>> import numpy as np
    >>> from cyad import Duplicated, Forward, autodiff, rules
    >>> with rules.scope():
    ...     @rules.forward(np.sin)
    ...     def shout(config, func, RT, x: Duplicated):
    ...         return Duplicated(np.sin(x.val), 100.0 * x.dval)
    ...     autodiff(Forward, np.sin, Duplicated(0.0, 1.0))
    (100.0,)
    >>> autodiff(Forward, np.sin, Duplicated(0.0, 1.0))
    (1.0,)
    """
    if not hasattr(_scopes, "open"):
        _scopes.open = []
    added = []
    _scopes.open.append(added)
    try:
        yield
    finally:
        _scopes.open.pop()
        for rules, rule in reversed(added):
            rules.discard(rule)
            _forget(rules)


def arranged(f, count, names):
    """The arguments of a call, `count` positional ones and these keywords, in the order of the signature of `f`:
    ``(indices, defaults, names)``, an index of -1 being an omitted argument with that default, names being those of
    the arguments at the end that are keywords only. None where the signature is not known, or does not fit."""
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return None
    given = {name: count + i for i, name in enumerate(names)}
    indices, defaults, last = [], [], []
    for i, p in enumerate(parameters):
        if p.kind is p.VAR_POSITIONAL:
            indices += range(len(indices), count)
        elif p.kind is p.VAR_KEYWORD:
            last += given
            indices += given.values()
            given = {}
        else:
            index = i if i < count and p.kind is not p.KEYWORD_ONLY else given.pop(p.name, -1)
            if index < 0 and p.default is p.empty:
                return None
            indices.append(index)
            if p.kind is p.KEYWORD_ONLY:
                last.append(p.name)
        defaults += [p.default] * (len(indices) - len(defaults))
    return (indices, defaults, tuple(last)) if not given and len(indices) >= count else None


def described(f):
    """A function as error messages name it."""
    return getattr(f, "__qualname__", None) or getattr(f, "__name__", None) or type(f).__qualname__


def wrap_like(wrapper, f):
    """Gives a wrapper the name and documentation of a function, where that has some."""
    functools.update_wrapper(wrapper, f)
    return wrapper
