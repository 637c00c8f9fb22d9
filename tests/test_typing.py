"""What a type checker makes of cyad, and whether the stubs say the truth about the modules they describe."""
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import mypy  # noqa: F401  (the tests run it by name)
import numpy as np
import pytest

import cyad

HERE = Path(__file__).parent / "typing"
PACKAGE = Path(cyad.__file__).parent
# Before version 2.2 the stubs of NumPy do not say what `from numpy import *` gives, as that of cyad.numpy does.
SCRIPTS = ["user.py", *["renamed.py" for line in (Path(np.__file__).parent / "__init__.pyi").read_text().splitlines()
                        if line.startswith("__all__ = ")]]
MESSAGE = re.compile(r"(?P<file>[^:]+):(?P<line>\d+): (?P<kind>error|note): (?P<text>.*)$")

# What stubtest would say although it is meant: that extension types are bases of others can be said to recent checkers
# only, and the default of a generic field has but one of its types. What is internal and has no stub is not typed.
MEANT = [r"cyad\._(adjoint|context|tracked)\.(Context|Tape|DuckArray)", r"cyad\.activity\.Mode\.primal",
         r"cyad\.rules\..*"]
# The stubs of NumPy before version 2.2 have names for the operands of these, which ours inherit.
MEANT += [r"cyad\._(adjoint\.Adjoint|dual\.Dual|tracked\.DuckArray)\.__(contains|eq|ne|lt|le|gt|ge)__"]
MEANT += [rf"cyad\.{p.stem}\..*" for p in PACKAGE.glob("_*.py") if not p.with_suffix(".pyi").exists()]
# Adapters to libraries that are not here cannot be imported, nor compared with their stubs.
MEANT += [rf"cyad\.interop\.{name}" for name in ("autograd", "jax", "torch") if find_spec(name) is None]


def run(*arguments):
    """Runs the interpreter, in the folder of the scripts, on the cyad that these tests import."""
    environment = dict(os.environ)
    if PACKAGE.parent.name != "site-packages":
        environment.update(MYPYPATH=str(PACKAGE.parent), PYTHONPATH=str(PACKAGE.parent))
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=HERE,
                          env=environment, timeout=600)


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """What mypy says about the scripts, the stubs, and the type of every public name: by file, (line, text)."""
    folder = tmp_path_factory.mktemp("mypy")
    names = folder / "names.py"
    names.write_text("import cyad\n" + "".join(f"reveal_type(cyad.{name})\n" for name in cyad.__all__))
    options = ("--strict", "--follow-imports=silent", "--hide-error-context", "--no-error-summary",
               f"--cache-dir={folder / 'cache'}")
    lines = []
    # The stubs by module: as files they would make mypy take all of site-packages for sources.
    stubs = [part for p in sorted(PACKAGE.glob("*.pyi")) for part in ("-m", f"cyad.{p.stem}")]
    for sources in ((*SCRIPTS, "rejected.py", names), stubs):
        done = run("-m", "mypy", *options, *sources)
        assert done.returncode in (0, 1), done.stdout + done.stderr
        lines += done.stdout.splitlines()
    found = {}
    for line in lines:
        match = MESSAGE.match(line)
        assert match, f"mypy: {line}"
        if match["kind"] == "error" or match["text"].startswith("Revealed"):
            found.setdefault(Path(match["file"]).name, []).append((int(match["line"]), match["text"]))
    return found


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").exists()
    assert {p.stem for p in PACKAGE.glob("*.pyi")} >= {"_adjoint", "_dual", "_tracked", "activity", "api", "numpy"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_that_uses_everything_passes(script, messages):
    assert messages.get(script, []) == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_script_runs(script):
    done = run(script)
    assert done.returncode == 0, done.stderr


def test_the_script_uses_every_public_name():
    script = (HERE / "user.py").read_text()
    assert [name for name in cyad.__all__ if not re.search(rf"\bcyad\.{name}\b", script)] == []


def test_mistakes_are_rejected(messages):
    source = (HERE / "rejected.py").read_text().splitlines()
    expected = [i for i, line in enumerate(source, 1) if line.endswith("# refused")]
    assert sorted({line for line, _ in messages["rejected.py"]}) == expected


def test_the_stubs_are_consistent(messages):
    assert {name: found for name, found in messages.items() if name.endswith(".pyi")} == {}


def test_every_public_name_has_a_type(messages):
    kinds = {cyad.__all__[line - 2]: text for line, text in messages["names.py"]}
    assert kinds.keys() == set(cyad.__all__)
    assert [name for name, text in kinds.items() if text == 'Revealed type is "Any"'] == []


def test_the_stubs_say_what_is_there(tmp_path):
    (tmp_path / "mypy.ini").write_text("[mypy]\nignore_errors = True\n")
    (tmp_path / "meant").write_text("\n".join(MEANT))
    done = run("-m", "mypy.stubtest", "cyad", "--ignore-missing-stub", "--concise", "--ignore-unused-allowlist",
               "--mypy-config-file", tmp_path / "mypy.ini", "--allowlist", tmp_path / "meant")
    assert done.returncode == 0, done.stdout + done.stderr
