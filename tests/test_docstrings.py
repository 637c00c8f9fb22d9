"""What the docstring of a public name has: an example that runs, a word about threads, and what is raised.

The examples of the adapters to other libraries are run in test_interop_docs.py, where these are; here their sources are
read.
"""
import ast
import dataclasses
import inspect
import re
import threading
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from documented import examples_of, run

import cyad
from cyad.rules import registry

PACKAGE = Path(cyad.__file__).parent
ADAPTERS = sorted(p for p in (PACKAGE / "interop").glob("[!_]*.py"))


def declared(module):
    """The public names that the stub of a module declares."""
    stub = ast.parse(Path(module.__file__).with_suffix(".pyi").read_text("utf-8"))
    return [part.name for part in stub.body if hasattr(part, "name") and not part.name.startswith("_")]


NAMES = {
    cyad: cyad.__all__, cyad.rules: cyad.rules.__all__, cyad.testing: cyad.testing.__all__,
    cyad.operators: declared(cyad.operators), cyad.split: declared(cyad.split), registry: ["NotSupported"],
}
THINGS = {f"{module.__name__}.{name}": getattr(module, name) for module, names in NAMES.items() for name in names}
# Modes have the docstring of their class, which names them.
THINGS = {name: thing for name, thing in THINGS.items() if not isinstance(thing, (cyad.Mode, ModuleType))}
CLASSES = {name: thing for name, thing in THINGS.items() if inspect.isclass(thing)}
ERRORS = {name: thing for name, thing in CLASSES.items() if issubclass(thing, cyad.ADError)}


def functions_of(source):
    """Docstrings of the functions in the __all__ of a module that is not imported, by name."""
    parts = ast.parse(source.read_text("utf-8")).body
    public, = [ast.literal_eval(p.value) for p in parts if isinstance(p, ast.Assign) and p.targets[0].id == "__all__"]
    docs = {p.name: ast.get_docstring(p) for p in parts if isinstance(p, ast.FunctionDef) and p.name in public}
    assert docs.keys() == set(public)
    return {f"cyad.interop.{source.stem}.{name}": doc for name, doc in docs.items()}


ADAPTED = {name: doc for source in ADAPTERS for name, doc in functions_of(source).items()}
DOCSTRINGS = {**{name: thing.__doc__ for name, thing in THINGS.items()}, **ADAPTED}


def takes_arguments(name):
    thing = THINGS.get(name, takes_arguments)   # an adapter is a function
    try:
        return callable(thing) and bool(inspect.signature(thing).parameters)
    except ValueError:   # a class in Cython, which says nothing of them
        return True


@pytest.mark.parametrize("name", THINGS)
def test_there_is_an_example_and_it_runs(name):
    tests = examples_of(THINGS[name], name)
    assert any(test.name == name for test in tests), f"the docstring of {name} has no example"
    for test in tests:
        run(test)


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_have_an_example(name):
    assert ">>> " in ADAPTED[name]


@pytest.mark.parametrize("name", [name for name in DOCSTRINGS if name not in ERRORS])
def test_it_says_which_threads_may_use_it(name):
    assert re.search(r"\bthreads?\b", DOCSTRINGS[name], re.IGNORECASE), f"the docstring of {name} mentions no threads"


@pytest.mark.parametrize("name", [name for name in DOCSTRINGS if name not in ERRORS and takes_arguments(name)])
def test_it_says_what_is_raised(name):
    assert re.search(r"\braise[sd]?\b|\berrors\b|Error\b", DOCSTRINGS[name], re.IGNORECASE), \
        f"the docstring of {name} does not say what is raised, or that nothing is"


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_which_builtin_they_are(name):
    error = ERRORS[name]
    builtin = [base.__name__ for base in error.__mro__ if base.__module__ == "builtins"]
    assert error is cyad.ADError or builtin[0] in error.__doc__.partition(">>>")[0]
    assert re.search(r"\bthreads?\b", cyad.ADError.__doc__)   # of all of them


@pytest.mark.parametrize("name", CLASSES)
def test_methods_and_properties_have_docstrings(name):
    bare = [member for member, thing in vars(CLASSES[name]).items() if not member.startswith("_") and
            (callable(thing) or inspect.isdatadescriptor(thing)) and not inspect.ismemberdescriptor(thing) and
            not thing.__doc__]
    assert bare == []


def test_modes_are_described_by_name_and_by_field():
    quoted = set(re.findall(r"`(\w+)`", cyad.Mode.__doc__))
    modes = {name for name in cyad.__all__ if isinstance(getattr(cyad, name), cyad.Mode)}
    assert len(modes) == 8 and modes <= quoted
    assert {field.name for field in dataclasses.fields(cyad.Mode)} <= quoted
    assert cyad.ReverseHolomorphic.__doc__ == cyad.Mode.__doc__   # what help() of one shows


def test_sizes_have_units():
    for thing in (cyad.SplitTape.nbytes, cyad.Tape.nbytes, cyad.Tape, cyad.LockedArrayError):
        assert "byte" in thing.__doc__.lower()
    for name, thing in THINGS.items():
        if inspect.isfunction(thing) and {"chunk", "width", "widths"} & inspect.signature(thing).parameters.keys():
            assert re.search(r"\blanes?\b", thing.__doc__), f"the docstring of {name} does not say what `chunk` counts"


# ---- what they say of threads ----------------------------------------------------------------------------------------

def in_threads(*functions):
    """What the functions return, or raise, each in a thread of its own, all at once."""
    found = [None] * len(functions)

    def work(k):
        try:
            found[k] = functions[k]()
        except Exception as error:
            found[k] = error
    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def halves(f, x):
    """The sweep of one recording, from split mode."""
    forward, reverse = cyad.autodiff_thunk(cyad.ReverseSplitNoPrimal, f, cyad.Active)
    tape, _, _ = forward(cyad.Active(x))
    return lambda: reverse(cyad.Active(x), 1.0, tape)[0][0]


def of_tape(f, x):
    with cyad.Tape() as tape:
        v = tape.variable(x)
        y = f(v)
    return lambda: tape.gradient(y, v)


SWEEPS = {"vjp": lambda f, x: lambda pull=cyad.vjp(f, x)[1]: pull(1.0)[0], "autodiff_thunk": halves, "Tape": of_tape}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_recording_is_swept_by_one_thread_at_a_time_and_by_any(name):
    swept, tried = threading.Event(), threading.Event()
    slow = []

    @cyad.primitive
    def square(x):
        return x * x

    @cyad.rules.augmented_primal(square)
    def augmented(config, func, RT, x: cyad.Active):
        return cyad.rules.AugmentedReturn(x.val * x.val, None, x.val)

    @cyad.rules.reverse(square)
    def reverse(config, func, dret, tape, x: cyad.Active):
        if slow:
            swept.set()
            assert tried.wait(30)
        return (2.0 * tape * dret.val,)

    sweep = SWEEPS[name](lambda x: square(x), 3.0)
    assert in_threads(sweep) == [6.0]
    slow.append(True)

    def second():
        assert swept.wait(30)
        try:
            return sweep()
        finally:
            tried.set()
    first, error = in_threads(sweep, second)
    assert first == 6.0 and isinstance(error, cyad.TapeError)
    slow.clear()
    assert sweep() == 6.0


def test_what_linearize_makes_is_called_by_any_number_of_threads():
    def f(p):
        p["x"] *= 2.0
        return np.sin(p["x"]) * p["a"]

    _, push = cyad.linearize(f, {"x": np.full(50, 0.2), "a": 3.0})
    lanes = [{"x": np.full(50, 1.0 + k), "a": 0.0} for k in range(4)]
    found = in_threads(*[lambda v=v: [push(v) for _ in range(40)] for v in lanes])
    for v, results in zip(lanes, found, strict=True):
        np.testing.assert_allclose(results, np.broadcast_to(6.0 * np.cos(0.4) * v["x"], (40, 50)), rtol=1e-14)


def test_rules_are_seen_by_all_threads_and_scopes_belong_to_one():
    @cyad.primitive
    def f(x):
        return x

    def slope():
        return cyad.derivative(f, 1.0)

    def rule(factor):
        return lambda config, func, RT, x: cyad.Duplicated(func.val(x.val), factor * x.dval)

    with cyad.rules.scope():
        cyad.rules.forward(f)(rule(3.0))
        assert in_threads(slope) == [3.0]
    assert in_threads(slope) == [1.0]
    with cyad.rules.scope():
        in_threads(lambda: cyad.rules.forward(f)(rule(5.0)))
    assert slope() == 5.0
