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


# ---- the floors of design.md -----------------------------------------------------------------------------------------

PACKAGE, DESIGN = Path(cyad.__file__).parent, (ROOT / "docs" / "design.md").read_text("utf-8")
UPWARDS = {("rules.custom", "__init__")}   # names in hints that are strings


def sources():
    """Module name -> its text, that of a .pxd included."""
    found = {}
    for file in sorted(PACKAGE.rglob("*")):
        if file.suffix in (".py", ".pyx", ".pxd"):
            name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
            name = name.removesuffix(".__init__")
            found[name] = found.get(name, "") + file.read_text("utf-8")
    return found


def floors():
    """Name or folder -> its place in the block of design.md; indented lines belong to the folder above them."""
    block = DESIGN.partition("## The floors")[2].partition("\nAn import")[0]
    lines = re.findall(r"^    (\S.*?)  ", block, re.MULTILINE)
    names = [re.sub(r"\.pyx?$", "", name).replace("/", ".") for line in lines for name in line.split(", ")]
    return {name: place for place, name in enumerate(names)}


def imports(name, text, modules):
    """The modules of the package that one imports or cimports, in functions too."""
    text = re.sub(r'("""|\'\'\').*?\1', "", text, flags=re.DOTALL)
    pattern = r"^ *(?:from (cyad[\w.]*|\.) c?import (\([^)]*\)|.*)|c?import (cyad[\w.]*))"
    for line in re.finditer(pattern, text, re.MULTILINE):
        base = "cyad." + name.rpartition(".")[0] if line[1] == "." else line[1] or line[3]
        for word in re.findall(r"\w+", re.sub(r"#.*", "", line[2] or "")) or [""]:
            full = f"{base}.{word}".removeprefix("cyad").strip(".")
            yield full if full in modules else base.removeprefix("cyad").strip(".") or "__init__"


def test_imports_point_downwards():
    modules, places = sources(), floors()
    place_of = lambda name: places.get(name, places.get(name.partition(".")[0] + "."))
    assert {name for name in modules if place_of(name) is None} == set()
    assert {name for name in places if name.rstrip(".") not in modules} == set()
    pairs = {(name, other) for name, text in modules.items() for other in imports(name, text, modules)}
    assert len(pairs) > 200
    assert {(a, b) for a, b in pairs if place_of(a) > place_of(b)} == UPWARDS


def test_hooks_are_those_of_the_page():
    modules, named = sources(), set()
    for hooks, told_by in re.findall(r"^\| (`.*?`) \| (`.*?`) \|", DESIGN.partition("| hook |")[2], re.MULTILINE):
        for hook in re.findall(r"`([\w.]+)`", hooks):
            module, _, name = hook.rpartition(".")
            named.add(hook)
            for other in re.findall(r"`(\w+)`", told_by):
                assert re.search(rf"\b{name}(\(| = )", modules[other]), f"{other} does not call {hook}"
    defined = {f"{module}.{name}" for module, text in modules.items()
               for name in re.findall(r"^(?:def|cdef \w+) (register_\w+)\(", text, re.MULTILINE)}
    assert named - {"rules.registry.plain"} == {hook for hook in defined if not hook.endswith("register_extremum")}
