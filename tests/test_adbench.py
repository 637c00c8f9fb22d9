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
