"""Every NumPy function and ufunc that dispatches, on float input: right in both modes, or refused in plain words."""
import ast
import runpy
import traceback
from pathlib import Path

import numpy as np
import pytest
from checks import check, copies, leaves, quietly
from numpy.testing.overrides import get_overridable_numpy_array_functions, get_overridable_numpy_ufuncs
from numpy_examples import EXAMPLES

import cyad
from cyad.rules import classification, table

DOCS = Path(__file__).parent.parent / "docs"
KINDS = {classification.name_of(f): classification.classify(f) for f in get_overridable_numpy_array_functions()}
# NumPy 2.5 has real and imag without a loop for any type, for those that bring their own.
UFUNCS = {u.__name__: u for u in get_overridable_numpy_ufuncs() if u.types}
PRESENT = [e for e in EXAMPLES if e[0] in KINDS]


def named(cases):
    return [pytest.param(*case, id=f"{case[0]}-{i}") for i, case in enumerate(cases)]


def is_refused(function, inputs, name):
    """Raises ADError with the name, in every mode."""
    def scalar(*args):
        function(*args)
        return np.sum(args[0])

    for mode in (cyad.Forward, cyad.Reverse):
        with pytest.raises(cyad.ADError, match=name.rpartition(".")[2]):
            cyad.gradient(mode, scalar, *inputs)


@pytest.mark.parametrize(("name", "function", "inputs"), named(e for e in PRESENT if KINDS[e[0]] != "refused"))
def test_function(name, function, inputs):
    check(function, inputs)


@pytest.mark.parametrize(("name", "function", "inputs"), named(e for e in PRESENT if KINDS[e[0]] != "refused"))
def test_function_at_second_order(name, function, inputs):
    """Products with the Hessian, by sweeps over the tape where they serve, against differences of gradients."""
    def curved(*xs):
        """The squares, so that what is linear is not flat; of products with the inputs, so that they matter twice."""
        result = leaves(function(*[x * x for x in xs]))
        return sum([np.sum(np.real(leaf) ** 2 + np.imag(leaf) ** 2) for leaf in result], 0.0) * (1.0 + np.sum(xs[0]))

    rng = np.random.default_rng(8)
    xs = [np.sqrt(np.abs(x)) + 0.1 for x in inputs]
    xs = [x if isinstance(x, np.ndarray) else float(x) for x in xs]
    vs = [rng.uniform(-1, 1, np.shape(x)) if isinstance(x, np.ndarray) else rng.uniform(-1, 1) for x in xs]
    products = quietly(cyad.hvp, lambda xs: curved(*xs), copies(xs), vs)
    slopes = [quietly(cyad.gradient, cyad.Reverse, curved, *[x + h * v for x, v in zip(xs, vs, strict=True)])
              for h in (1e-5, -1e-5)]
    for product, up, down in zip(products, *slopes, strict=True):
        slope = (up - down) / 2e-5
        size = max(1.0, np.max(np.abs(slope), initial=0.0))
        np.testing.assert_allclose(product, slope, rtol=1e-5, atol=1e-6 * size)


@pytest.mark.parametrize(("name", "function", "inputs"), named(e for e in PRESENT if KINDS[e[0]] == "refused"))
def test_refused_function(name, function, inputs):
    is_refused(function, inputs, name)


def test_every_function_has_an_example():
    assert set(KINDS) <= {name for name, _, _ in EXAMPLES}


# ---- ufuncs ----------------------------------------------------------------------------------------------------------

def points(name, *shapes):
    """Points of a ufunc's domain, one array (or number) for each operand."""
    rng = np.random.default_rng(5)
    rule = table.BY_NAME.get(name)
    domains = rule.domain if rule else (((0.3, 0.9),),) * len(shapes)
    drawn = []
    for shape, intervals in zip(shapes, domains, strict=False):
        low, high = np.array(intervals, float).T
        which = rng.integers(len(low), size=shape)
        x = rng.uniform(low[which], high[which])
        drawn.append(x if shape else np.float64(x))
    return drawn


def ufunc_cases():
    for name, ufunc in sorted(UFUNCS.items()):
        if name in classification.REFUSED_UFUNCS or ufunc.signature is not None:
            continue
        if name == "ldexp":
            for x in points(name, (3, 4), (3, 4))[:1] + points(name, (), ())[:1]:
                yield name, lambda x, f=ufunc: f(x, 3), [x]
            continue
        for shapes in {1: [[(3, 4)], [()], [(0, 2)]],
                       2: [[(3, 4), (4,)], [(4,), (3, 1)], [(), (3,)], [(2,), ()], [(), ()], [(2, 1, 4), (3, 1)]],
                       3: [[(3, 4), (4,), ()], [(4,), (3, 1), (4,)]]}[ufunc.nin]:
            xs = points(name, *shapes)
            if name == "clip":
                xs = [xs[0], xs[1] - 0.3, xs[2] + 0.1]
            yield name, ufunc, xs
            if ufunc.nin == 2:
                # One operand alone is active.
                yield name, lambda x, f=ufunc, y=xs[1]: f(x, y), xs[:1]
                yield name, lambda y, f=ufunc, x=xs[0]: f(x, y), xs[1:]
    for name, shapes in [("matmul", [(3, 4), (4, 2)]), ("matmul", [(4,), (4,)]), ("matmul", [(2, 3, 4), (4,)]),
                         ("vecdot", [(3, 4), (4,)]), ("matvec", [(3, 4), (4,)]), ("matvec", [(2, 3, 4), (2, 4)]),
                         ("vecmat", [(3,), (3, 4)])]:
        if name in UFUNCS:
            yield name, UFUNCS[name], points(name, *shapes)


@pytest.mark.parametrize(("name", "function", "inputs"), named(ufunc_cases()))
def test_ufunc(name, function, inputs):
    check(function, inputs)


@pytest.mark.parametrize("name", sorted(set(classification.REFUSED_UFUNCS) & set(UFUNCS)))
def test_refused_ufunc(name):
    ufunc = UFUNCS[name]
    is_refused(lambda *xs: ufunc(*xs), [np.full(3, 2.0)] * ufunc.nin, name)


def test_every_ufunc_is_classified_and_tried():
    assert all(classification.classify(u) for u in UFUNCS.values())
    tried = {name for name, _, _ in ufunc_cases()} | set(classification.REFUSED_UFUNCS)
    assert set(UFUNCS) <= tried


# ---- the page --------------------------------------------------------------------------------------------------------

def lines_by_name(page):
    """The rows of a page, by section and name of the function."""
    found, section = {}, ""
    for line in page.splitlines():
        if line.startswith("#"):
            section = line
        elif line.startswith("| "):
            found[section, line.split(" | ")[0]] = line
    return found


def test_the_page_is_up_to_date():
    """Functions that another version of NumPy has, or has not, may be on the page."""
    made = runpy.run_path(str(DOCS / "coverage.py"))["page"]()
    kept = (DOCS / "coverage.md").read_text()
    assert [line for line in made.splitlines() if not line.startswith("| ")] == [
        line for line in kept.splitlines() if not line.startswith("| ")]
    rows = lines_by_name(kept)
    assert {key: rows.get(key) for key in lines_by_name(made)} == lines_by_name(made)


def test_the_page_has_every_refused_option():
    """Each call of `refuse` in the rules is met by a call on the page."""
    page, folder = runpy.run_path(str(DOCS / "coverage.py")), Path(cyad.__file__).parent / "rules"
    met = set()
    for call in page["REFUSED"]:
        frames = [f for f in traceback.extract_tb(page["refusal"](call).__traceback__) if f.name != "refuse"]
        met.add((Path(frames[-1].filename).name, frames[-1].lineno))
    written = {(file.name, node.lineno): ast.unparse(node.args[0])
               for file in folder.glob("*.py") for node in ast.walk(ast.parse(file.read_text("utf-8")))
               if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "refuse"}
    # Its other argument is refused first where it is active, and the rule is not asked where it is not.
    assert {name for place, name in written.items() if place not in met} == {"'np.bincount'"}
