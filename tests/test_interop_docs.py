"""What the documentation of the adapters shows is run: the examples in their docstrings, the blocks of their page."""
import importlib

import pytest
from documented import examples_of, run, run_blocks


@pytest.mark.parametrize("name", ["autograd", "jax", "torch"])
def test_docstrings(name):
    module = importlib.import_module(f"cyad.interop.{name}")
    assert module.__doc__
    for public in module.__all__:
        examples = examples_of(getattr(module, public), public)
        assert examples, f"the docstring of {public} has no example"
        for test in examples:
            run(test)


def test_blocks_of_the_page():
    assert {"velocity", "logsumexp", "gammaln"} <= run_blocks("docs/interop.md").keys()
