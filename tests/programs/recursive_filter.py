"""A recursive filter run forwards and backwards over a signal, sample by sample, with the state in a small array."""
import numpy as np

SIZES = 12, 700
ACTIVE = 0, 1, 2


class Biquad:
    def __init__(self, b, a):
        self.b, self.a = b, a
        self.z = np.zeros(2)

    def __call__(self, sample):
        b, a, z = self.b, self.a, self.z
        y = b[0] * sample + z[0]
        z[0] = b[1] * sample - a[0] * y + z[1]
        z[1] = b[2] * sample - a[1] * y
        return y


def lowpass(cutoff, q):
    w = 2.0 * np.pi * cutoff
    alpha = np.sin(w) / (2.0 * q)
    norm = 1.0 + alpha
    b = np.array([(1.0 - np.cos(w)) / 2.0, 1.0 - np.cos(w), (1.0 - np.cos(w)) / 2.0]) / norm
    return b, np.array([-2.0 * np.cos(w), 1.0 - alpha]) / norm


def program(signal, cutoff, q):
    out = np.zeros_like(signal)
    forwards = Biquad(*lowpass(cutoff, q))
    for i in range(signal.size):
        out[i] = forwards(signal[i])
    backwards = Biquad(*lowpass(cutoff, q))
    for i in range(signal.size - 1, -1, -1):
        out[i] = backwards(out[i])
    return np.sum((out - np.sin(0.1 * np.arange(signal.size))) ** 2)


def arguments(n):
    rng = np.random.default_rng(11)
    return np.sin(0.1 * np.arange(n)) + 0.3 * rng.normal(size=n), 0.05, 0.7
