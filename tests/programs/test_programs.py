"""Programs written the way people write them, differentiated untouched in both modes.

Each other file of this folder is one program that knows nothing of cyad: `program`, `arguments(size)`, which of these
are differentiated (`ACTIVE`, by position), and two `SIZES`, one for this test and one for timings.py. The oracle is the
program itself: central differences of fourth order along random directions, at two step sizes that must agree.
"""
import copy
import functools
import importlib.util
from pathlib import Path

import numpy as np
import pytest

import cyad

HERE = Path(__file__).parent
NAMES = sorted(p.stem for p in HERE.glob("*.py") if p.stem not in ("test_programs", "timings"))
DIRECTIONS = 4


@functools.cache
def load(name):
    spec = importlib.util.spec_from_file_location(f"cyad_programs_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def annotated(module, args):
    """As one passes them to cyad.gradient: what is not differentiated is Const."""
    return [a if k in module.ACTIVE else cyad.Const(a) for k, a in enumerate(args)]


def value_along(module, args, directions, step):
    moved = copy.deepcopy(args)
    for k, v in directions.items():
        moved[k] = moved[k] + step * v
    return float(module.program(*moved))


def slope(module, args, directions, h):
    at = functools.partial(value_along, module, args, directions)
    return (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h)


@functools.cache
def expected(name):
    """[(directions, slope), ...], and the arguments as a plain run leaves them."""
    module = load(name)
    args = list(module.arguments(module.SIZES[0]))
    rng = np.random.default_rng(0)
    slopes = []
    for _ in range(DIRECTIONS):
        directions = {k: rng.normal(size=np.shape(args[k])) for k in module.ACTIVE}
        fine, coarse = (slope(module, args, directions, h) for h in (3e-5, 1e-4))
        assert abs(fine - coarse) <= 1e-7 * abs(fine), "the program is not smooth here: it is no oracle"
        slopes.append((directions, coarse))
    module.program(*args)
    return slopes, args


@pytest.mark.parametrize("mode", ["Reverse", "Forward"])
@pytest.mark.parametrize("name", NAMES)
def test_gradient(name, mode):
    module = load(name)
    slopes, left = expected(name)
    args = list(module.arguments(module.SIZES[0]))
    gradient = cyad.gradient(getattr(cyad, mode), module.program, *annotated(module, args))
    for k, part in enumerate(gradient):
        if k in module.ACTIVE:
            assert np.shape(part) == np.shape(args[k])
        else:
            assert part is None
    size = np.sqrt(sum(np.sum(np.square(gradient[k])) for k in module.ACTIVE))
    for directions, want in slopes:
        got = sum(np.sum(gradient[k] * v) for k, v in directions.items())
        assert abs(got - want) <= 1e-7 * max(abs(want), size), f"slope {got}, by finite differences {want}"
    for mine, plain in zip(args, left, strict=True):
        if isinstance(plain, np.ndarray):
            np.testing.assert_allclose(mine, plain, rtol=1e-13, atol=0, err_msg="an argument is left otherwise")


@pytest.mark.parametrize("name", NAMES)
def test_modes_agree(name):
    module = load(name)
    reverse, forward = (
        cyad.gradient(mode, module.program, *annotated(module, module.arguments(module.SIZES[0])))
        for mode in (cyad.Reverse, cyad.Forward))
    for k in module.ACTIVE:
        scale = np.max(np.abs(forward[k]))
        np.testing.assert_allclose(reverse[k], forward[k], rtol=0, atol=1e-9 * scale)
