"""What runs the examples of docstrings and pages."""
import doctest
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def examples_of(thing, name):
    """Those of its docstring, and for a class those of its methods, in Cython or not. They import what they use."""
    return [test for test in doctest.DocTestFinder(recurse=True).find(thing, name, module=False, globs={})
            if test.examples]


def run(test):
    said = []
    failed = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(test, out=said.append).failed
    assert not failed, "".join(said)


def blocks_of(page):
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def run_blocks(page):
    """The names that the Python blocks of a page leave, run one after the other as a reader would type them in."""
    names = {}
    for block in blocks_of(page):
        exec(compile(block, page, "exec"), names)
    return names
