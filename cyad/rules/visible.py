"""Calls of SciPy's (and NumPy's) Python functions, made visible while they have rules.

A function that is plain Python is found by its callers under any name, so its calls are caught in the function itself:
its code is replaced by code that calls a target, and put back when the last rule is gone. The target gets a function
with the original code. Whoever imported the function before, or holds it in a closure, is served as well.

Only functions of NumPy and SciPy are treated like this: people decorate their own with `cyad.primitive`, where they
can see it.

Rejected: replacing names in modules (`from scipy.linalg import expm` has happened already), and the vectorcall of the
function, which CPython 3.11 does not look at when one Python function calls another.
"""
import inspect
import types

PACKAGES = ("numpy", "scipy")


def is_library_function(f):
    """Whether `f` is a Python function of NumPy or SciPy."""
    return isinstance(f, types.FunctionType) and (f.__module__ or "").partition(".")[0] in PACKAGES


def original(f):
    """A function that does what `f` does now, whatever becomes of the code of `f`."""
    out = types.FunctionType(f.__code__, f.__globals__, f.__name__, f.__defaults__, f.__closure__)
    out.__kwdefaults__ = f.__kwdefaults__
    out.__qualname__, out.__module__, out.__doc__ = f.__qualname__, f.__module__, f.__doc__
    return out


def redirect(f, target):
    """Makes calls of `f` calls of `target`; returns a function that takes this back."""
    code, signed = f.__code__, "__signature__" in f.__dict__ or "__wrapped__" in f.__dict__
    signature = None if signed else inspect.signature(f)
    f.__code__ = _calling(target, code)
    if not signed:
        f.__signature__ = signature

    def restore():
        f.__code__ = code
        if not signed:
            del f.__signature__

    return restore


def _calling(target, like):
    """Code that calls `target` with whatever it is given; with as many free variables as that which it replaces."""
    cells = ", ".join(f"cell{i}" for i in range(len(like.co_freevars)))
    unused = f"        if False:\n            {cells}\n" if cells else ""
    names = {}
    exec(f"def make({cells}):\n"
         "    def through(*args, **kwargs):\n"
         f"{unused}"
         "        target = '<target>'\n"
         "        return target(*args, **kwargs)\n"
         "    return through\n", names)
    code = names["make"](*([None] * len(like.co_freevars))).__code__
    constants = tuple(target if c == "<target>" else c for c in code.co_consts)
    return code.replace(co_consts=constants, co_name=like.co_name, co_filename=like.co_filename,
                        co_firstlineno=like.co_firstlineno)
