"""Convolution of an image by four loops, with padding and stride, and a Sobel-like edge energy."""
import numpy as np

SIZES = 6, 20
ACTIVE = 0, 1


def conv2d(image, kernel, stride, pad):
    kh, kw = kernel.shape
    padded = np.zeros((image.shape[0] + 2 * pad, image.shape[1] + 2 * pad))
    padded[pad:-pad, pad:-pad] = image
    rows = (padded.shape[0] - kh) // stride + 1
    columns = (padded.shape[1] - kw) // stride + 1
    out = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            for u in range(kh):
                for v in range(kw):
                    out[i, j] += padded[i * stride + u, j * stride + v] * kernel[u, v]
    return out


def program(image, kernel):
    smooth = conv2d(image, kernel, 1, 1)
    dx = conv2d(smooth, np.array([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]), 2, 1)
    return np.sum(np.sqrt(1.0 + dx**2))


def arguments(n):
    rng = np.random.default_rng(14)
    return rng.normal(size=(n, n)), rng.normal(size=(3, 3)) / 3.0
