"""A spectral derivative by a hand-written FFT: bit reversal, then butterflies in place, on real and imaginary parts."""
import math

import numpy as np

SIZES = 8, 256
ACTIVE = 0, 1


def bit_reverse(re, im):
    n, j = len(re), 0
    for i in range(1, n):
        bit = n >> 1
        while j & bit:
            j ^= bit
            bit >>= 1
        j ^= bit
        if i < j:
            re[i], re[j] = re[j], re[i]
            im[i], im[j] = im[j], im[i]


def fft(re, im, sign):
    bit_reverse(re, im)
    n, half = len(re), 1
    while half < n:
        for k in range(half):
            angle = sign * math.pi * k / half
            wr, wi = math.cos(angle), math.sin(angle)
            for a in range(k, n, 2 * half):
                b = a + half
                tr = wr * re[b] - wi * im[b]
                ti = wr * im[b] + wi * re[b]
                re[b], im[b] = re[a] - tr, im[a] - ti
                re[a] += tr
                im[a] += ti
        half *= 2


def derivative(u, length):
    n = len(u)
    re, im = u.copy(), np.zeros(n)
    fft(re, im, -1.0)
    for k in range(n):
        wave = 2.0 * math.pi / length * (k if k < n // 2 else k - n if k > n // 2 else 0)
        re[k], im[k] = -wave * im[k] / n, wave * re[k] / n
    fft(re, im, 1.0)
    return re


def program(u, length):
    """Momentum flux of Burgers' equation: the integral of u^2 u_x^2."""
    return np.sum((u * derivative(u, length)) ** 2) * length / len(u)


def arguments(n):
    x = 2.0 * np.pi * np.arange(n) / n
    return np.sin(x) + 0.3 * np.cos(2.0 * x) + 0.1 * np.random.default_rng(18).normal(size=n), 6.0
