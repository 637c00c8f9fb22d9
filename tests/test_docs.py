"""What the documentation shows is run: the examples in the docstrings of modules, and the blocks of the pages.

Docstrings of public names, and what they have to say: test_docstrings.py.
"""
import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from documented import ROOT, blocks_of, run, run_blocks

import cyad

# The page about other libraries is run where these are: test_interop_docs.py.
PAGES = ["README.md", *filter(blocks_of, sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")
                                                if p.stem != "interop"))]
MODULES = ["cyad", "cyad._adjoint", "cyad._dual", "cyad._structures", "cyad.rules.custom", *sorted(
    f"cyad.{p.stem}" for p in Path(cyad.__file__).parent.glob("*.py") if not p.stem.startswith("_"))]


def test_the_readme_names_everything_public():
    said = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]*)`", (ROOT / "README.md").read_text("utf-8")))))
    assert set(cyad.__all__) - said == set()


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_of_modules(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for test in doctest.DocTestFinder().find(module, name):
        if test.examples:
            test.globs = {}
            run(test)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_a_page(page):
    names = run_blocks(page)
    if page == "README.md":
        np.testing.assert_allclose(names["dx"], [6.0, 2.0])
        np.testing.assert_array_equal(names["dy"], 0.0)
        x, f, steps = np.linspace(0.0, 1.0, 50) ** 2, names["roughness"], 1e-6 * np.eye(50)
        np.testing.assert_allclose(names["g"], [(f(x + h) - f(x - h)) / 2e-6 for h in steps], rtol=1e-6, atol=1e-8)
