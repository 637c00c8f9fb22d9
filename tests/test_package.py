"""The package itself: its version, and the submodules that are imported when somebody looks them up."""
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cyad

LAZY = ["interop", "numpy", "testing"]
ADAPTED = ["autograd", "jax", "torch"]


def fresh(script):
    """What a script prints in an interpreter of its own, on the cyad that these tests import."""
    path = f"import sys; sys.path.insert(0, {str(Path(cyad.__file__).parents[1])!r})\n"
    return subprocess.run([sys.executable, "-c", path + script], capture_output=True, text=True, check=True,
                          timeout=60).stdout.strip()


def test_the_version_is_that_of_the_sources():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    assert cyad.__version__ == project["project"]["version"]


@pytest.mark.parametrize("name", LAZY)
def test_submodules_are_there_without_an_import_of_their_own(name):
    assert fresh(f"import cyad; print(cyad.{name}.__name__, cyad.{name} is sys.modules['cyad.{name}'])") == \
        f"cyad.{name} True"
    assert fresh(f"from cyad import {name}; print({name}.__name__)") == f"cyad.{name}"
    assert fresh(f"import cyad; print('{name}' in dir(cyad))") == "True"


def test_the_import_does_without_them():
    later = {*(f"cyad.{name}" for name in LAZY), *(f"cyad.interop.{name}" for name in ADAPTED), *ADAPTED, "scipy",
             "tomllib"}
    loaded = fresh("import cyad; dir(cyad), cyad.rules, cyad.split; print(*sys.modules)").split()
    assert "cyad" in loaded and later.isdisjoint(loaded)
    loaded = fresh("import cyad; cyad.interop; print(*sys.modules)").split()
    assert later.intersection(loaded) == {"cyad.interop"}


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_are_looked_up_and_need_their_library(name):
    """A library that cannot be found: the error names it, and is not an attribute that is missing."""
    script = f"""
import cyad
sys.modules[{name!r}] = None
try:
    cyad.interop.{name}
except ImportError as error:
    print({name!r} in str(error))
"""
    assert fresh(script) == "True"


@pytest.mark.parametrize("module", [cyad, cyad.interop], ids=lambda m: m.__name__)
def test_other_names_are_attribute_errors(module):
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'gradiant'") as caught:
        module.gradiant  # noqa: B018
    assert caught.value.name == "gradiant" and caught.value.obj is module
    assert not hasattr(module, "__wrapped__")
