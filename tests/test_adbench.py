"""The objectives of ADBench against central differences along random directions, on generated data."""
import importlib.util
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent / "asv_bench" / "adbench"


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", range(3))
def test_lstm(seed):
    lstm = load("lstm")
    main, extra, state, sequence = lstm.generate(2, 30, seed=seed)
    derivs, value = lstm.gradient(main, extra, state, sequence)
    assert value == lstm.objective(main, extra, state, sequence)
    rng = np.random.default_rng(seed)
    u, v, h = rng.normal(size=main.shape), rng.normal(size=extra.shape), 1e-5
    slope = (lstm.objective(main + h * u, extra + h * v, state, sequence)
             - lstm.objective(main - h * u, extra - h * v, state, sequence)) / (2 * h)
    assert abs(np.sum(derivs[0] * u) + np.sum(derivs[1] * v) - slope) < 1e-8


@pytest.mark.parametrize("seed", range(3))
def test_gmm(seed):
    gmm = load("gmm")
    *parameters, x, prior = gmm.generate(40, d=4, k=3, seed=seed)
    prior = (1.3, 2)
    rng, h = np.random.default_rng(seed), 1e-5
    along = [rng.normal(size=p.shape) for p in parameters]
    slopes = []
    for f in (gmm.objective, gmm.objective_at_once):
        up, down = (f(*(p + s * u for p, u in zip(parameters, along, strict=True)), x, prior) for s in (h, -h))
        derivs, value = gmm.gradient(f, *parameters, x, prior)
        assert value == f(*parameters, x, prior)
        slopes.append(sum(np.sum(g * u) for g, u in zip(derivs[:3], along, strict=True)))
        assert abs(slopes[-1] - (up - down) / (2 * h)) < 1e-6 * abs(slopes[-1])
    assert abs(slopes[0] - slopes[1]) < 1e-10 * abs(slopes[0])
