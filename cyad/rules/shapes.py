"""What the structural rules share: axes, broadcasting and its transpose, realness, and refusals.

Everything here works on duck arrays of an outer differentiation as it does on ndarrays.
"""
import numpy as np

from cyad.rules.registry import NotSupported

NO_VALUE = np._NoValue


def no_out(out, name):
    """Rules are functional: the carriers store the result into ``out`` themselves."""
    if out is not None:
        raise NotSupported(f"the rule of {name} takes no out=; store the result instead: out[...] = {name}(...)")


def refuse(name, what, instead):
    raise NotSupported(f"{name} with {what} has no derivative rule; {instead}")


def given(value, default):
    """NumPy's own Python code passes its mark for "not given" on, and that mark is true."""
    return default if value is NO_VALUE or value is None else value


def shape_of(x):
    """Numbers and nested sequences have no ``shape`` attribute."""
    try:
        return x.shape
    except AttributeError:
        return np.shape(x)


def kind_of(x):
    """``"c"`` for complex values, whatever their form."""
    try:
        return x.dtype.kind
    except AttributeError:
        return np.result_type(x).kind


# np.finfo takes longer than most operations on small arrays.
PARTS = {np.dtype(np.complex128): np.dtype(np.float64), np.dtype(np.complex64): np.dtype(np.float32),
         np.dtype(np.float64): np.dtype(np.float64), np.dtype(np.float32): np.dtype(np.float32)}


def real_dtype(dtype):
    """The dtype of real and imaginary part."""
    found = PARTS.get(dtype)
    if found is None:
        found = np.finfo(dtype).dtype if dtype.kind in "fc" else np.dtype(np.float64)
    return found


def conj(x):
    """The conjugate; a real array itself, where ``np.conj`` would copy."""
    return np.conj(x) if kind_of(x) == "c" else x


def frozen(mask):
    """A private copy of a plain mask or index array: the caller may change his before the maps are called."""
    return mask if isinstance(mask, (bool, int, slice)) else np.array(mask)


def zeros_for(g, shape, dtype=None):
    """Zeros that can take values like ``g``: a duck array where ``g`` is one."""
    return np.zeros_like(g, shape=shape, dtype=dtype)


def scatter_add(g, shape, index):
    """The transpose of ``x[index]`` for ``x`` of the given shape: repeated indices add up."""
    total = zeros_for(g, shape)
    np.add.at(total, index, g)
    return total


def scatter(g, shape, index):
    """The transpose of ``x[index]`` where no index occurs twice."""
    total = zeros_for(g, shape)
    total[index] = g
    return total


NUMBERS = {float: np.float64, complex: np.complex128}
# By their exact type: tracked scalars pass for np.float64 where isinstance asks.
SCALARS = frozenset((float, complex, np.float64, np.float32, np.complex128, np.complex64))


def spread(g, shape):
    """``g`` broadcast to ``shape`` without copying.

    ``np.broadcast_to`` takes 3 us, ten times what it takes to make the same view of memory in one piece.
    """
    kind = type(g)
    if kind is np.ndarray:
        if g.shape == shape:
            return g
        missing = len(shape) - g.ndim
        if missing < 0 or not g.flags.c_contiguous:
            return np.broadcast_to(g, shape)
        strides = [0] * missing
        for have, want, stride in zip(g.shape, shape[missing:], g.strides, strict=True):
            if have != want and have != 1:
                return np.broadcast_to(g, shape)
            strides.append(stride if have != 1 else 0)
        return np.ndarray(shape, g.dtype, g, 0, strides)
    if kind in SCALARS:
        g = NUMBERS[kind](g) if kind in NUMBERS else g
        return np.ndarray(shape, g.dtype, g, 0, (0,) * len(shape))
    return g if g.shape == shape else np.broadcast_to(g, shape)


def unbroadcast(g, shape):
    """The transpose of broadcasting ``shape`` to the shape of ``g``."""
    wide = g.shape if hasattr(g, "shape") else ()
    if wide == shape:
        return g
    front = len(wide) - len(shape)
    axes = (*range(front), *(front + i for i, n in enumerate(shape) if n == 1 and wide[front + i] != 1))
    total = np.add.reduce(g, axis=axes) if axes else g
    return total.reshape(shape)


def axes_of(axis, ndim):
    """``axis`` of a reduction as a tuple of axes counted from the front."""
    if axis is None:
        return tuple(range(ndim))
    if not isinstance(axis, tuple):
        axis = (axis,)
    return tuple(int(i) + ndim if i < 0 else int(i) for i in axis)


def kept(shape, axes):
    """The shape after a reduction over ``axes`` that keeps them."""
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def axis_of(axis, ndim):
    """One axis, counted from the front."""
    axis = axis.__index__()
    if not -ndim <= axis < ndim:
        raise np.exceptions.AxisError(axis, ndim)
    return axis + ndim if axis < 0 else axis


def matched(out, linear, *operands):
    """``linear`` with pullbacks brought to each operand's own dtype.

    Needed wherever the result's dtype can differ from an operand's: a real factor of a complex product has a real
    cotangent, and a float32 one a float32 one.
    """
    dtype = out.dtype
    for x in operands:
        if x is not None and x is not NO_VALUE and getattr(x, "dtype", None) is not dtype:
            break
    else:
        return linear

    def projected(k):
        push, pull = linear(k)
        target = getattr(operands[k], "dtype", None)
        if target is dtype:
            return push, pull
        if target is None:
            target = np.result_type(operands[k], np.float64)

        def pull_projected(g):
            g = pull(g)
            if kind_of(g) == "c" and target.kind != "c":
                g = g.real
            return g.astype(target) if getattr(g, "dtype", target) != target else g
        return push, pull_projected

    if hasattr(linear, "push_all"):
        projected.push_all = linear.push_all
    return projected
