"""The LSTM objective of ADBench: the negative log likelihood of a sequence of bits, in plain NumPy.

    python asv_bench/adbench/lstm.py [DATAFILE ...]

All products are element by element. Where the folder of a file has ADBench's own results (reference.json), value and
gradient are compared with them; the exit status is 1 when they disagree. Source of the objective and of the data:
Srajer, Kukelova, Fitzgibbon, A benchmark of selected algorithmic differentiation tools (2018).
"""
import json
import sys
from pathlib import Path

import numpy as np

import cyad

TOLERANCE = 1e-10  # relative to the value, and to the gradient's norm


def read(path):
    """Parameters of the layers, parameters of input and output, hidden and cell states, the sequence."""
    numbers = np.array(Path(path).read_text().split(), dtype=float)
    layers, steps, bits = (int(v) for v in numbers[:3])
    sizes = [2 * layers * 4 * bits, 3 * bits, 2 * layers * bits]
    main, extra, state, sequence = np.split(numbers[3:], np.cumsum(sizes))
    return (main.reshape(2 * layers, 4 * bits), extra.reshape(3, bits), state.reshape(2 * layers, bits),
            sequence.reshape(steps, bits))


def generate(layers, steps, bits=14, seed=0):
    """Numbers like those of ADBench's files."""
    rng = np.random.default_rng(seed)
    return (rng.random((2 * layers, 4 * bits)), rng.random((3, bits)), rng.random((2 * layers, bits)),
            (rng.random((steps, bits)) < 0.3).astype(float))


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def step(weights, biases, hidden, cell, x):
    """One layer: writes its hidden and cell state, returns its output."""
    forget = sigmoid(x * weights[0] + biases[0])
    ingate = sigmoid(hidden * weights[1] + biases[1])
    outgate = sigmoid(x * weights[2] + biases[2])
    change = np.tanh(hidden * weights[3] + biases[3])
    cell *= forget
    cell += ingate * change
    hidden[:] = outgate * np.tanh(cell)
    return hidden


def objective(main, extra, state, sequence):
    layers, bits = len(main) // 2, sequence.shape[1]
    parts = main.reshape(layers, 2, 4, bits)
    state = state.copy()
    total = 0.0
    for now, following in zip(sequence[:-1], sequence[1:], strict=True):
        x = now * extra[0]
        for layer in range(layers):
            x = step(parts[layer, 0], parts[layer, 1], state[2 * layer], state[2 * layer + 1], x)
        y = x * extra[1] + extra[2]
        y = y - np.log(np.sum(np.exp(y)) + 2.0)
        total += np.sum(following * y)
    return -total / ((len(sequence) - 1) * bits)


def gradient(main, extra, state, sequence):
    """By the parameters: main, extra."""
    return cyad.gradient(cyad.ReverseWithPrimal, objective, main, extra, cyad.Const(state), cyad.Const(sequence))


def disagreement(value, derivative, reference):
    """The largest of the relative differences: of the value, and of each entry of the gradient's summary."""
    want = reference["derivative"]
    got = {"sum": np.sum(derivative), "norm": np.linalg.norm(derivative),
           "dot_cos": np.dot(derivative, np.cos(np.arange(derivative.size))), "first": derivative[:10]}
    differences = [np.max(np.abs(got[name] - np.asarray(want[name]))) for name in got]
    return max(abs(value - reference["value"]) / abs(reference["value"]), max(differences) / want["norm"])


def main(paths):
    failed = False
    for path in paths:
        data = read(path)
        derivs, value = gradient(*data)
        flat = np.concatenate([derivs[0].ravel(), derivs[1].ravel()])
        print(f"{Path(path).name}: value {value:.12g}, norm of the gradient {np.linalg.norm(flat):.12g} "
              f"({flat.size} entries)")
        known = Path(path).with_name("reference.json")
        if known.exists():
            off = disagreement(value, flat, json.loads(known.read_text())[Path(path).stem])
            failed = failed or not off <= TOLERANCE
            print(f"largest relative difference to the reference {off:.1e}")
    if not paths:
        _, value = gradient(*generate(2, 200))
        print(f"generated data: value {value:.12g}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
