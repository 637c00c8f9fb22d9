"""What the documentation shows is run: the examples in docstrings of everything public, and the blocks of the pages."""
import doctest
import importlib
import inspect
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import cyad

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
MODULES = ["cyad", "cyad._adjoint", "cyad._dual", "cyad._structures", "cyad.rules.custom", *sorted(
    f"cyad.{p.stem}" for p in Path(cyad.__file__).parent.glob("*.py") if not p.stem.startswith("_"))]
PUBLIC = {name: getattr(cyad, name) for name in cyad.__all__}
CALLABLE = {name: thing for name, thing in PUBLIC.items() if inspect.isclass(thing) or inspect.isroutine(thing)}

# Variations on what the examples of their bases show, and what only cyad makes.
WITHOUT_EXAMPLE = {
    "Adjoint", "AdjointArray", "BatchDuplicatedNoNeed", "BatchMixedDuplicated", "DuplicatedNoNeed", "Ref",
}


def test_the_readme_names_everything_public():
    said = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]*)`", (ROOT / "README.md").read_text("utf-8")))))
    assert set(cyad.__all__) - said == set()


def examples_of(thing, name):
    """Those of its docstring, and for a class those of its methods, in Cython or not. They import what they use."""
    return [test for test in doctest.DocTestFinder(recurse=True).find(thing, name, module=False, globs={})
            if test.examples]


def run(test):
    said = []
    failed = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(test, out=said.append).failed
    assert not failed, "".join(said)


@pytest.mark.parametrize("name", CALLABLE)
def test_docstrings_of_public_names(name):
    thing = CALLABLE[name]
    assert thing.__doc__, f"{name} has no docstring"
    examples = examples_of(thing, name)
    if not (inspect.isclass(thing) and issubclass(thing, cyad.ADError)) and name not in WITHOUT_EXAMPLE:
        assert examples, f"the docstring of {name} has no example"
    for test in examples:
        run(test)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_of_modules(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for test in doctest.DocTestFinder().find(module, name):
        if test.examples:
            test.globs = {}
            run(test)


@pytest.mark.parametrize("name", ["autograd", "jax", "torch"])
def test_docstrings_of_interop(name):
    pytest.importorskip(name)
    module = importlib.import_module(f"cyad.interop.{name}")
    assert module.__doc__
    for public in module.__all__:
        examples = examples_of(getattr(module, public), public)
        assert examples, f"the docstring of {public} has no example"
        for test in examples:
            run(test)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_a_page(page):
    """The Python blocks of a page, one after the other, as a reader would type them in."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    assert blocks or page != "README.md"
    names = {}
    for block in blocks:
        needed = re.findall(r"^import (autograd|jax|torch)\b", block, re.MULTILINE)
        if not all(map(find_spec, needed)):
            continue
        exec(compile(block, page, "exec"), names)
    if page == "README.md":
        np.testing.assert_allclose(names["dx"], [6.0, 2.0])
        np.testing.assert_array_equal(names["dy"], 0.0)
        x, f, steps = np.linspace(0.0, 1.0, 50) ** 2, names["roughness"], 1e-6 * np.eye(50)
        np.testing.assert_allclose(names["g"], [(f(x + h) - f(x - h)) / 2e-6 for h in steps], rtol=1e-6, atol=1e-8)
