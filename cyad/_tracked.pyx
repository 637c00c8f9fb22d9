"""The array type of both modes: indexing, views, operators, attributes; and the attributes of tracked numbers.

What a tracked array is made of stands in `_context`; here is what makes it an ndarray to the code that uses it. `_dispatch`, which
knows the rules of NumPy's functions, is above and reached by two hooks.

Thread safety: as in `_context`.
"""
from cpython.buffer cimport PyObject_GetBuffer
from cpython.float cimport PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyObject, PyObject_RichCompare
from libc.math cimport isfinite
from numpy cimport (
    NPY_ARRAY_WRITEABLE, NPY_DOUBLE, NPY_FLOAT, PyArray_CHKFLAGS, PyArray_DATA, PyArray_DIMS, PyArray_ISCONTIGUOUS,
    PyArray_NDIM, PyArray_STRIDES, PyArray_TYPE, import_array, ndarray,
)

from cyad._context cimport (
    SINGLE, WEAK, Context, Py_EnterRecursiveCall, Py_LeaveRecursiveCall, Scalar, TrackedArray, all_plain, as_number,
    check_alive, check_conflict, context_of, has_own_operators, is_active_anywhere, is_array, is_complex, is_float32,
    is_float64, is_real_float, is_scalar, is_tracked, object_operand, own_copy, plain_copy, plain_value,
    refuse_own_operators, run_plain, run_primal, settled, usable, wrap_inactive, wrap_new, wrap_over, wrap_view,
)
from cyad._elementwise cimport apply
from cyad._redirect cimport leave, swap_current
from cyad._shadow cimport extent_of, may_overlap
from cyad.rules._kernels cimport Row

import builtins
import decimal
import functools
import numbers
import operator
import types

import numpy as np

from cyad._context import objects_of, stack_nested
from cyad.errors import FRESH, ActiveStoreError, ActivityError, ADError, lost, of_sparse, where
from cyad.rules._kernels import rows_by_name

import_array()

cdef object f64 = np.float64
cdef object f32 = np.float32

cdef Row ADD = rows_by_name["add"]
cdef Row SUBTRACT = rows_by_name["subtract"]
cdef Row MULTIPLY = rows_by_name["multiply"]
cdef Row DIVIDE = rows_by_name["divide"]
cdef Row NEGATIVE = rows_by_name["negative"]
cdef Row POSITIVE = rows_by_name["positive"]
cdef Row POWER = rows_by_name["power"]
cdef Row SQUARE = rows_by_name["square"]
cdef Row SQRT = rows_by_name["sqrt"]
cdef Row RECIPROCAL = rows_by_name["reciprocal"]
cdef Row ABSOLUTE = rows_by_name["absolute"]
cdef Row REMAINDER = rows_by_name["remainder"]
cdef Row FLOOR_DIVIDE = rows_by_name["floor_divide"]


# ---- hooks: what stands on the floors above --------------------------------------------------------------------------

cdef object _apply_ufunc = None
cdef object _dispatch = None


def register_dispatch(apply_ufunc, dispatch):
    """Told once, by `_dispatch`: how calls of ufuncs and of other functions find their rule."""
    global _apply_ufunc, _dispatch
    _apply_ufunc, _dispatch = apply_ufunc, dispatch


cdef object dispatch(object func, object args, object kwargs):
    return _dispatch(func, args, kwargs)


# ---- indexing -------------------------------------------------------------------------------------------------------

cdef object plain_key(object key):
    """An index in which tracked values are replaced by what they are."""
    if is_tracked(key):
        return plain_value(key)
    if type(key) is tuple:
        for k in key:
            if is_tracked(k):
                Py_EnterRecursiveCall(" in an index")
                try:
                    return tuple([plain_key(k) for k in key])
                finally:
                    Py_LeaveRecursiveCall()
    return key


cdef bint is_basic(object key) noexcept:
    """Whether an index makes a view (or an element), not a copy."""
    if type(key) is tuple:
        for k in key:
            if not (type(k) is int or type(k) is slice or k is None or k is Ellipsis or isinstance(k, np.integer)):
                return False
        return True
    return type(key) is int or type(key) is slice or key is None or key is Ellipsis or isinstance(key, np.integer)


cdef char* element_address(ndarray arr, object key) except? NULL:
    """Address of a single element for an index of exactly as many ints as axes, NULL for any other index."""
    cdef int i, ndim = PyArray_NDIM(arr)
    cdef Py_ssize_t j, n
    cdef char* p = <char*>PyArray_DATA(arr)
    if type(key) is int:
        if ndim != 1:
            return NULL
        j = key
        n = PyArray_DIMS(arr)[0]
        if j < 0:
            j += n
        if j < 0 or j >= n:
            raise IndexError(f"index {key} is out of bounds for axis 0 with size {n}")
        return p + j * PyArray_STRIDES(arr)[0]
    if type(key) is not tuple or len(<tuple>key) != ndim:
        return NULL
    for i in range(ndim):
        k = (<tuple>key)[i]
        if type(k) is not int:
            return NULL
        j = k
        n = PyArray_DIMS(arr)[i]
        if j < 0:
            j += n
        if j < 0 or j >= n:
            raise IndexError(f"index {k} is out of bounds for axis {i} with size {n}")
        p += j * PyArray_STRIDES(arr)[i]
    return p


# ---- the array type -------------------------------------------------------------------------------------------------

cdef class DuckValue(TrackedArray):
    """What arrays and boxed scalars share: nearly all, because NumPy's scalars have the methods of arrays."""

    __array_priority__ = 1000.0

    # -- what it looks like ------------------------------------------------------------------------------------------

    @property
    def __class__(self):
        # Code that asks isinstance(x, np.ndarray) wants to know whether x can be indexed, reshaped and the like: it can.
        if self.boxed:
            return type(plain_value(self))
        return np.ndarray

    @property
    def shape(self):
        return () if self.boxed else self.place.shape_tuple()

    @shape.setter
    def shape(self, value):
        cdef TrackedArray other
        if not self.ctx.alive:
            usable(self).shape = value
            return
        if self.given:
            raise ADError("the shape of an argument cannot be assigned, which would change the caller's array; use "
                          "x = x.reshape(...)")
        plain = plain_value(self) if self.boxed else run_plain(np.ndarray.view, (self.arr,))
        plain.shape = value   # refused, or with a warning, where NumPy does so
        other = derived_view(self, _reshape, (plain.shape, "C"))
        self.arr, self.prim, self.place = other.arr, other.prim, other.place

    @property
    def ndim(self):
        return 0 if self.boxed else PyArray_NDIM(self.arr)

    @property
    def size(self):
        return 1 if self.boxed else self.place.size

    @property
    def dtype(self):
        return np.result_type(plain_value(self)) if self.boxed else self.arr.dtype

    @dtype.setter
    def dtype(self, value):
        raise ADError("the dtype of a tracked array cannot be assigned; use x.astype(...)")

    @property
    def primal(self):
        """The values: a plain array (shared memory, not a copy), or a tracked array of the outer differentiation."""
        return self.prim

    @property
    def T(self):
        return self.transpose()

    @property
    def mT(self):
        return self.swapaxes(-1, -2)

    @property
    def real(self):
        return np.real(self)

    @real.setter
    def real(self, value):
        if is_complex(plain_value(self)):
            self[...] = value + 1j * self.imag
        else:
            self[...] = value

    @property
    def imag(self):
        return np.imag(self)

    @imag.setter
    def imag(self, value):
        self[...] = self.real + 1j * value

    @property
    def base(self):
        # NumPy: what owns the memory of a view. As a tracked array over that memory, or code would write past us.
        cdef Py_ssize_t low, high
        owner = None if self.boxed else (<object>self.arr).base
        if not isinstance(owner, ndarray):
            return None
        whole = owner if self.plain else self.prim.base
        if whole is None:
            return None
        low, high = extent_of(<ndarray>plain_value(whole))
        if low >= <Py_ssize_t>self.place.buf.data and high <= <Py_ssize_t>self.place.buf.data + self.place.buf.nbytes:
            return wrap_view(self, whole)
        if is_active_anywhere(self):
            raise ADError(f".base{where()} of an argument that is a view of a larger array: the rest of that has no "
                          "derivative; pass the larger array")
        return self.__array__().base

    @property
    def flat(self):
        return Flat(self)

    @flat.setter
    def flat(self, value):
        Flat(self)[:] = value

    def __repr__(self):
        return f"{type(self).__name__}({plain_value(self)!r})"

    def __str__(self):
        return str(plain_value(self))

    def __format__(self, str spec not None):
        return format(plain_value(self), spec)

    def __bool__(self):
        return bool(plain_value(self))

    def __int__(self):
        return int(plain_value(self))

    def __index__(self):
        return operator.index(plain_value(self))

    def __float__(self):
        if not self.ctx.alive:
            return float(usable(self))
        if is_active_anywhere(self):
            raise lost("float()")
        return float(plain_value(self))

    def __complex__(self):
        if is_active_anywhere(self):
            raise lost("complex()")
        return complex(plain_value(self))

    def __round__(self, ndigits=None):
        return round(plain_value(self), ndigits) if ndigits is not None else round(plain_value(self))

    def __getattr__(self, name):
        function = _METHODS.get(name)
        if function is not None:
            return functools.partial(function, self)
        if name in _ATTRIBUTES:
            return getattr(plain_value(self), name)
        if self.boxed:
            return scalar_attribute(self, name)
        if name in _HANDED_OUT and (name not in _REFUSED or not is_active_anywhere(self)):
            return getattr(self.__array__(), name)
        if name == "__array_wrap__" and not is_active_anywhere(self):
            return _wrapped
        if name in _REFUSED:
            raise ADError(f".{name} of a tracked array {_REFUSED[name]}")
        raise AttributeError(f"'numpy.ndarray' object has no attribute {name!r}")

    # -- what must not happen silently -------------------------------------------------------------------------------

    def __reduce_ex__(self, protocol):
        if self.ctx.alive and is_active_anywhere(self):
            raise ActivityError("an active array cannot be pickled: its derivative belongs to a call that is running")
        plain = plain_value(self) if self.ctx.alive else plain_value(usable(self))
        return (own_copy(plain) if isinstance(plain, ndarray) else plain).__reduce_ex__(protocol)

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    # -- NumPy's protocols -------------------------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return _apply_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, func, types, args, kwargs):
        return dispatch(func, args, kwargs)

    def __array_namespace__(self, api_version=None):
        return np

    # -- operators ---------------------------------------------------------------------------------------------------

    def __add__(left, right):
        return binary(ADD, left, right)

    def __sub__(left, right):
        return binary(SUBTRACT, left, right)

    def __mul__(left, right):
        return binary(MULTIPLY, left, right)

    def __truediv__(left, right):
        return binary(DIVIDE, left, right)

    def __floordiv__(left, right):
        return binary(FLOOR_DIVIDE, left, right)

    def __mod__(left, right):
        return binary(REMAINDER, left, right)

    def __divmod__(left, right):
        return np.divmod(left, right)

    def __pow__(left, right, modulus):
        if modulus is not None:
            return NotImplemented
        return power(left, right)

    def __matmul__(left, right):
        result = None if is_usual(left) and is_usual(right) else unusual("matmul", left, right)
        return np.matmul(left, right) if result is None else result

    def __neg__(self):
        return apply(NEGATIVE, self, None)

    def __pos__(self):
        return apply(POSITIVE, self, None)

    def __abs__(self):
        return apply(ABSOLUTE, self, None)

    def __iadd__(self, other):
        return in_place(self, ADD, other)

    def __isub__(self, other):
        return in_place(self, SUBTRACT, other)

    def __imul__(self, other):
        return in_place(self, MULTIPLY, other)

    def __itruediv__(self, other):
        return in_place(self, DIVIDE, other)

    def __ifloordiv__(self, other):
        return in_place(self, FLOOR_DIVIDE, other)

    def __imod__(self, other):
        return in_place(self, REMAINDER, other)

    def __ipow__(self, other, modulus):
        result = power(self, other)
        if (<TrackedArray>self).boxed:
            return result
        store_result(self, result, "power")
        return self

    def __imatmul__(self, other):
        result = np.matmul(self, other)
        if (<TrackedArray>self).boxed:
            return result
        store_result(self, result, "matmul")
        return self

    def __richcmp__(self, other, int op):
        return compared(<TrackedArray>self, other, op)

    def __hash__(self):
        return hash(plain_value(self))

    # -- indexing ----------------------------------------------------------------------------------------------------

    def __getitem__(self, key):
        cdef char* address
        cdef PyObject* users
        if not self.ctx.alive:
            return usable(self)[key]
        if self.boxed:
            return scalar_item(self, key)
        if self.plain and is_real_float(self.place.typenum):
            address = element_address(self.arr, key)
            if address is not NULL:
                return self.ctx.load(self, address)
        users = leave()
        try:
            return picked(self, key)
        finally:
            swap_current(users)

    def __setitem__(self, key, value):
        cdef Context ctx = self.ctx
        cdef PyObject* users
        cdef char* address
        if not ctx.alive:
            usable(self)[key] = value
            return
        if self.boxed:
            raise TypeError("'numpy.float64' object does not support item assignment")
        if self.plain and is_real_float(self.place.typenum) and not isinstance(value, np.ndarray):
            address = element_address(self.arr, key)
            if address is not NULL:
                if not PyArray_CHKFLAGS(self.arr, NPY_ARRAY_WRITEABLE):
                    raise ValueError("assignment destination is read-only")
                if self.place.buf.conflict:
                    check_conflict(self.place.buf)
                if ctx.store_element(self, address, value):
                    return
        users = leave()
        try:
            store_at(self, key, value)
        finally:
            swap_current(users)

    def __delitem__(self, key):
        raise ValueError("cannot delete array elements")

    # -- views -------------------------------------------------------------------------------------------------------

    def reshape(self, *shape, order="C", copy=None):
        shape = shape[0] if len(shape) == 1 else shape
        if self.boxed:
            return stack_nested([self], None).reshape(shape)
        if copy:
            return self.copy(order=order).reshape(shape, order=order)
        if self.plain and PyArray_ISCONTIGUOUS(self.arr) and order == "C" and self.ctx.alive:
            return wrap_view(self, self.arr.reshape(shape))   # a view, whatever the shape
        return derived_view(self, _reshape, (shape, order))

    def ravel(self, order="C"):
        return derived_view(self, _ravel, (order,))

    def flatten(self, order="C"):
        return self.copy(order=order).ravel(order)

    def transpose(self, *axes):
        return self if self.boxed else derived_view(self, np.ndarray.transpose, axes)

    def swapaxes(self, a, b):
        return derived_view(self, np.ndarray.swapaxes, (a, b))

    def squeeze(self, axis=None):
        return self if self.boxed else derived_view(self, np.ndarray.squeeze, (axis,))

    def diagonal(self, offset=0, axis1=0, axis2=1):
        return derived_view(self, np.ndarray.diagonal, (offset, axis1, axis2))

    def view(self, dtype=None, type=None):
        if (dtype is None or dtype is np.ndarray or np.dtype(dtype) == self.dtype) and type in (None, np.ndarray):
            return self[...]
        if not is_active_anywhere(self) and not self.boxed:
            plain = self.__array__()
            return plain.view(type=type) if dtype is None else plain.view(dtype) if type is None else plain.view(dtype, type)
        if isinstance(dtype, builtins.type) and issubclass(dtype, np.ndarray):
            raise ADError(f"a view of a tracked array as {dtype.__module__}.{dtype.__qualname__}, a subclass that may have "
                          f"operators of its own, would lose the derivative; use arrays, np.asarray(a){of_sparse()}")
        raise ADError(f"a view of a tracked array as another type would lose the derivative; use astype{of_sparse()}")

    def setflags(self, write=None, align=None, uic=None):
        # The bottom's flags: what is there is not written by a sweep through this array.
        if self.boxed:
            return scalar_attribute(self, "setflags")
        self.arr.setflags(write, align, uic)

    def to_device(self, device, /, *, stream=None):
        plain_value(self).to_device(device, stream=stream)
        return self[...]

    # -- copies and fills --------------------------------------------------------------------------------------------

    def copy(self, order="C"):
        return copy_of(self, order, None)

    def sum(self, *args, **kwargs):
        return _dispatch(np.sum, (self, *args), kwargs)

    def mean(self, *args, **kwargs):
        return _dispatch(np.mean, (self, *args), kwargs)

    def astype(self, dtype, order="K", casting="unsafe", subok=True, copy=True):
        dtype = np.dtype(dtype)
        if not np.can_cast(self.dtype, dtype, casting):
            raise TypeError(f"Cannot cast array data from {self.dtype!r} to {dtype!r} according to the rule '{casting}'")
        if not copy and dtype == self.dtype:
            return self
        if self.boxed:
            return cast_box(self, dtype)
        if dtype.kind not in "fc":
            if dtype.hasobject:
                return objects_of(self)
            # Whole numbers and truth values are steps: their derivative is zero.
            return plain_copy(self.arr, dtype, order)
        return copy_of(self, order, dtype)

    def fill(self, value):
        self[...] = value

    def item(self, *args):
        if not args:
            if self.size != 1:
                raise ValueError("can only convert an array of size 1 to a Python scalar")
            return self if self.boxed else self.reshape(-1)[0]
        if len(args) == 1 and not isinstance(args[0], tuple):
            return self.flat[args[0]]
        return self[args if len(args) > 1 else args[0]]

    def tolist(self):
        if not is_active_anywhere(self):
            return plain_value(self).tolist()
        return self.item() if self.ndim == 0 else [self[i] if self.ndim == 1 else self[i].tolist() for i in range(len(self))]

    def sort(self, axis=-1, kind=None, order=None, stable=None):
        self[...] = np.sort(self, axis=axis)

    def partition(self, kth, axis=-1, kind="introselect", order=None):
        self[...] = np.partition(self, kth, axis=axis)

    def put(self, indices, values, mode="raise"):
        np.put(self, indices, values, mode)

    def dot(self, b, out=None):
        return np.dot(self, b, out=out) if out is not None else np.dot(self, b)

    def conj(self):
        return np.conjugate(self)

    conjugate = conj


cdef class DuckArray(DuckValue):
    """Base of DualArray and AdjointArray: an ndarray to the code that uses it. What is here, scalars lack, and code asks."""

    __hash__ = None

    def __len__(self):
        if self.ndim == 0:
            raise TypeError("len() of unsized object")
        return PyArray_DIMS(self.arr)[0]

    # Numbers have none of these two, or np.array([s, s], dtype=object) would ask them for it.

    def __array__(self, dtype=None, copy=None):
        if not self.ctx.alive:
            plain = usable(self)
            if is_array(plain):
                return plain.__array__(dtype, copy)
            return plain_copy(plain, dtype or plain.dtype, "K") if copy or dtype not in (None, plain.dtype) else plain
        if is_active_anywhere(self):
            raise ActiveStoreError(
                f"an active array would become a plain array{where()} and lose its derivative: by a store into a plain array, "
                "by what asks for its memory (as_strided, np.asarray in compiled code), or by a compiled function. Allocate the "
                f"target inside the differentiated function ({FRESH}); pass an object that keeps it as an argument with a shadow, "
                f"Duplicated(obj, make_zero(obj)); or give the compiled function a rule (cyad.rules){of_sparse()}")
        if copy or (dtype is not None and np.dtype(dtype) != self.arr.dtype):
            return plain_copy(self.arr, dtype or self.arr.dtype, "K")
        return exposed(self)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyObject_GetBuffer(self.__array__(), buffer, flags)

    def __contains__(self, item):
        return plain_value(item) in plain_value(self)

    def __iter__(self):
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")   # at once: np.iterable asks by calling iter()
        return entries(self)

    def __richcmp__(self, other, int op):
        return compared(<TrackedArray>self, other, op)


def entries(array):
    for i in range(len(array)):
        yield array[i]


cdef object compared(TrackedArray value, object other, int op):
    if not value.ctx.alive:
        usable(value)
    return PyObject_RichCompare(plain_value(value), plain_value(object_operand(other)), op)



def _reshape(a, shape, order):
    return a.reshape(shape, order=order)


def _ravel(a, order):
    return a.ravel(order)


cdef object derived_view(TrackedArray a, object method, tuple args):
    """A method of ndarray that returns a view where it can: applied to the primal, or to a copy that can be viewed."""
    cdef ndarray plain
    if not a.ctx.alive:
        settled_array = usable(a)
        return derived_view(settled_array, method, args) if is_array(settled_array) else run_plain(method, (settled_array,) + args)
    if a.boxed:
        return derived_view(stack_nested([a], None)[0:1].reshape(()), method, args)
    plain = run_plain(method, (a.arr,) + args)
    if a.place.size and not shares(plain, a.arr):
        # NumPy had to copy: copy in the order that it reads, and view that.
        order = args[-1] if args and type(args[-1]) is str else "C"
        return derived_view(copy_of(a, "F" if order == "F" or (order == "A" and a.arr.flags.fnc) else
                                    ("K" if order == "K" else "C"), None), method, args)
    if a.plain:
        return wrap_view(a, plain)
    if isinstance(method, types.MethodDescriptorType):
        return wrap_view(a, run_primal(a.ctx, getattr(a.prim, method.__name__), args, {}))
    return wrap_view(a, run_primal(a.ctx, method, (a.prim,) + args, {}))


cdef bint shares(ndarray view, ndarray base) except -1:
    cdef Py_ssize_t low, high, first, last
    low, high = extent_of(base)
    first, last = extent_of(view)
    return low <= first and last <= high


cdef object copy_of(TrackedArray a, object order, object dtype):
    """A copy in fresh memory, with its derivative, whatever the dtype."""
    cdef Context ctx = a.ctx
    cdef TrackedArray out
    if not ctx.alive:
        plain = usable(a)
        return plain.astype(dtype or plain.dtype, order=order)
    if a.boxed:
        return a
    out = wrap_new(ctx, plain_copy(a.arr, dtype or a.arr.dtype, order))
    if ctx.is_active(a) or not a.plain:
        ctx.store(out, a)
    return out


cdef object cast_box(TrackedArray a, object dtype):
    if dtype.kind not in "fc":
        return dtype.type(plain_value(a))
    if dtype.kind == "f" and is_complex(plain_value(a)):
        return np.real(a).astype(dtype)
    return a if a.dtype == dtype else _axisless(a).astype(dtype)[()]


cdef object element(TrackedArray a, object key, object prim):
    """A single element that is no plain double load: as a scalar of a's context."""
    cdef Context ctx = a.ctx
    cdef TrackedArray out
    cdef TrackedArray place
    # With an Ellipsis an index makes a view; not so with an array of no axes in it (x[np.array(2)]), for which NumPy copies.
    full = tuple([operator.index(k) for k in (key if type(key) is tuple else (key,)) if k is not Ellipsis]) + (Ellipsis,)
    if a.plain and PyArray_TYPE(a.arr) in (NPY_DOUBLE, NPY_FLOAT):
        place = wrap_view(a, a.arr[full])
        return ctx.load(place, <char*>PyArray_DATA(place.arr))
    if not ctx.is_active(a):
        return wrap_inactive(ctx, prim)

    def push(t):
        return t[full][()]

    def pull(g):
        return (full, g)

    return ctx.link(prim, [a], [push], [Into(pull)], ([], False))


class Into:
    """A pullback that touches a few elements only: returns (key, cotangent), to be added at that key."""

    __slots__ = ("pull",)

    def __init__(self, pull):
        self.pull = pull


cdef object own_key(object key):
    """An index that nobody can change until the tape has used it."""
    if type(key) is tuple:
        Py_EnterRecursiveCall(" in an index")
        try:
            return tuple([own_key(k) for k in key])
        finally:
            Py_LeaveRecursiveCall()
    if isinstance(key, np.ndarray):
        return own_copy(key)
    return list(key) if type(key) is list else key


cdef ndarray exposed(TrackedArray a):
    """The plain memory of an inactive array, for compiled code, which may write it at any moment from now on, at all levels."""
    while True:
        a.ctx.before_overwrite(a, None)
        a.place.buf.exposed = True
        if not is_array(a.prim):
            return a.arr
        a = a.prim


def _wrapped(array, context=None, return_scalar=False):
    """What np.linalg calls the result of constants with: any array is its own."""
    return array[()] if return_scalar and array.ndim == 0 else array


def _set_first(dtype, value):
    np.empty(1, dtype).flat[0] = value


class Flat:
    """x.flat: the elements in C order; indexing reads copies and writes through. Like NumPy's it is its own iterator."""

    def __init__(self, array):
        self.array = array if array.ndim else array.reshape(1)
        self.base = array
        self.index = 0

    def __len__(self):
        return self.array.size

    def __iter__(self):
        return self

    def __next__(self):
        if self.index >= self.array.size:
            raise StopIteration
        element = self.base[self.coords]
        self.index += 1
        return element

    @property
    def coords(self):
        """The index of the next element."""
        rest, backwards = self.index, []
        for n in self.array.shape[:0:-1]:
            rest, k = divmod(rest, max(1, n))
            backwards.append(k)
        return (rest, *backwards[::-1]) if self.base.ndim else ()

    def _key(self, key):
        """The index of the array for one of the flat sequence; work in proportion to what is picked."""
        size, shape = self.array.size, self.array.shape
        if type(key) is tuple and len(key) == 1:
            key = key[0]
        key = plain_value(key)
        if key is Ellipsis:
            key = slice(None)
        if isinstance(key, slice):
            return np.unravel_index(np.arange(*key.indices(size)), shape)
        if isinstance(key, (int, np.integer)) and not isinstance(key, (bool, np.bool_)):
            if not -size <= key < size:
                raise IndexError(f"index {key} is out of bounds for axis 0 with size {size}")
            return tuple([int(i) for i in np.unravel_index(int(key) % size, shape)])
        key = np.asarray(key, None if np.size(key) else np.intp)
        if key.dtype == bool:
            if key.shape != (size,):
                raise IndexError(f"a mask of shape {key.shape} does not match the {size} elements of x.flat")
            key = np.flatnonzero(key)
        if key.dtype.kind not in "iu":
            raise IndexError("unsupported iterator index")
        bad = key[(key < -size) | (key >= size)]
        if bad.size:
            raise IndexError(f"index {bad.flat[0]} is out of bounds for axis 0 with size {size}")
        return np.unravel_index(np.where(key < 0, key + size, key), shape)

    def __getitem__(self, key):
        return self.array[self._key(key)]

    def __setitem__(self, key, value):
        where = self._key(key)
        value = value.copy() if type(value) is Flat else value
        if where and isinstance(where[0], np.ndarray):
            if np.size(value) == 0:
                return    # so does NumPy
            if is_array(value) and np.may_share_memory(plain_value(value), plain_value(self.array)) and \
                    value.dtype == self.array.dtype:
                # Entry by entry, each read after those before it have been written.
                for k, index in enumerate(zip(*[np.ravel(w) for w in where])):
                    self.array[tuple([int(i) for i in index])] = value.flat[k % value.size]
                return
            if np.ndim(value):
                # NumPy repeats what is too short and leaves out what is too much.
                value = np.reshape(np.resize(value, where[0].size), where[0].shape)
        elif np.ndim(value):
            # An array of one entry was one number to NumPy before version 2.4.
            run_plain(_set_first, (plain_value(self.array).dtype, all_plain(value)))
            value = np.reshape(value, ())
        self.array[where] = value

    def copy(self):
        return self.array.flatten()


# ---- operators ------------------------------------------------------------------------------------------------------

cdef object binary(Row row, object left, object right):
    if not (is_usual(left) and is_usual(right)):
        result = unusual(row.name, left, right)
        if result is not None:
            return result
    return apply(row, left, right)


cdef inline bint is_usual(object value) noexcept:
    return is_tracked(value) or PyFloat_CheckExact(value) or PyLong_CheckExact(value) or type(value) is ndarray \
        or is_float64(value) or is_float32(value)


cdef dict _OPERATORS = {
    "add": operator.add, "subtract": operator.sub, "multiply": operator.mul, "divide": operator.truediv, "power": operator.pow,
    "remainder": operator.mod, "floor_divide": operator.floordiv, "matmul": operator.matmul,
}


cdef object unusual(str name, object left, object right):
    """The result of an operator that is not an operation of ours; None where it is."""
    if declines(left, is_number(right)) or declines(right, is_number(left)):
        return NotImplemented   # Python asks the other one
    if has_own_operators(left) or has_own_operators(right):
        # A product of np.matrix is not that of arrays.
        if is_active_anywhere(left) or is_active_anywhere(right):
            refuse_own_operators(left if has_own_operators(left) else right, name)
        return run_plain(_OPERATORS[name], (plain_value(left), plain_value(right)))
    return None


cdef bint is_number(object value) noexcept:
    return is_scalar(value) or (is_array(value) and (<TrackedArray>value).boxed)


cdef bint declines(object value, bint by_number) except -1:
    """Whether NumPy's arrays, or numbers, leave an operator to the other operand: by its __array_ufunc__, or its
    __array_priority__; numbers do to every object that is not like an array."""
    if is_tracked(value) or isinstance(value, ndarray):
        return False
    if value is None or isinstance(value, str):
        return True
    if isinstance(value, (np.generic, numbers.Number, list, tuple)) and not isinstance(value, decimal.Decimal):
        return False
    own = getattr(type(value), "__array_ufunc__", True)
    if own is None or own is not True:
        return own is None
    priority = getattr(type(value), "__array_priority__", None)
    if isinstance(priority, (int, float)) and (by_number or priority > 0.0):
        return True
    if not by_number or hasattr(type(value), "__array__"):
        return False
    plain = run_plain(np.asarray, (value,))
    return plain.ndim == 0 and plain.dtype.hasobject


cdef object power(object left, object right):
    """`**` with NumPy's own short cuts for common exponents, so that values agree to the last bit."""
    if not (is_usual(left) and is_usual(right)):
        return binary(POWER, left, right)
    if is_array(left) and not (<TrackedArray>left).boxed and (type(right) is int or type(right) is float):
        if right == 2:
            return apply(SQUARE, left, None)
        if right == 1:
            return apply(POSITIVE, left, None)
        if right == 0.5:
            return apply(SQRT, left, None)
        if right == -1:
            return apply(RECIPROCAL, left, None)
    return apply(POWER, left, right)


cdef object in_place(TrackedArray target, Row row, object other):
    """`y op= z` is `t = y op z; y[...] = t`."""
    cdef PyObject* users = leave()
    try:
        result = binary(row, target, other)
        if result is NotImplemented or target.boxed:
            return result
        store_result(target, result, row.name)
        return target
    finally:
        swap_current(users)


cdef int store_result(TrackedArray target, object result, str name) except -1:
    shape = np.shape(result)
    if shape != target.shape and np.broadcast_shapes(shape, target.shape) != target.shape:
        raise ValueError(f"non-broadcastable output operand with shape {target.shape} doesn't match the broadcast shape {shape}")
    if not np.can_cast(result.dtype, target.dtype, "same_kind"):
        raise TypeError(f"Cannot cast ufunc '{name}' output from {result.dtype} to {target.dtype} "
                        "with casting rule 'same_kind'")
    if not PyArray_CHKFLAGS(target.arr, NPY_ARRAY_WRITEABLE):
        raise ValueError("output array is read-only")
    check_conflict(target.place.buf)
    if not target.ctx.alive:
        usable(target)[...] = result
        return 0
    target.ctx.store(target, result)
    return 0


cdef object modular(Row row, object function, object left, object right):
    """`//` and `%` of numbers, with the warnings of NumPy's numbers where there may be some."""
    cdef double x, y
    cdef int kind, other
    if is_array(left) or is_array(right):
        return binary(row, left, right)
    a, b = plain_value(left), plain_value(right)
    if not as_number(a, &x, &kind) or not as_number(b, &y, &other):
        return binary(row, left, right)
    if y == 0.0 or not isfinite(x) or not isfinite(y):
        function(a, b)   # of Python's floats this may be an error
        with np.errstate(all="ignore"):
            result = binary(row, left, right)
    else:
        result = binary(row, left, right)
    if kind == WEAK and other == WEAK and is_scalar(result):
        (<Scalar>result).kind = WEAK   # binary works as NumPy's functions do, which return its numbers
    return result


# ---- scalars' attributes --------------------------------------------------------------------------------------------

cdef object scalar_attribute(object value, str name):
    """What np.float64 offers beyond operators: array-like attributes, and ufuncs as methods for object arrays."""
    if name in _SCALAR_SAME:
        return lambda *args, **kwargs: value
    if name in _ARRAY_PROTOCOLS:
        # np.array asks for these before it makes objects of what has none. Objects of an ended call would look like numbers.
        plain = settled(value)
        if plain is not value:
            return getattr(plain if isinstance(plain, np.generic) else f64(plain), name)
        check_alive(context_of(value))
    if name in _SCALAR_VALUES:
        return _SCALAR_VALUES[name](value)
    if name in _IN_PLACE:
        raise ADError(f".{name} of a number: numbers cannot be changed in place, and with them their derivative")
    if name in _REFUSED and name != "ctypes" or name in ("as_integer_ratio", "hex"):
        if is_active_anywhere(value):
            raise ADError(f".{name} of a number {_REFUSED.get(name, 'would lose the derivative')}")
        return getattr(_scalar_dtype(value).type(plain_value(value)), name)
    if name in rows_by_name:
        ufunc = (<Row>rows_by_name[name]).ufunc
        if ufunc is not None:
            return functools.partial(ufunc, value)
    function = _METHODS.get(name)
    if function is not None:
        return functools.partial(function, value)
    raise AttributeError(f"'numpy.float64' object has no attribute {name!r}")


cdef object picked(TrackedArray self, object key):
    """A view, or the elements that an array of indices or a mask names."""
    cdef TrackedArray out
    cdef Context ctx = self.ctx
    key = plain_key(key)
    if is_basic(key):
        prim = self.arr[key] if self.plain else run_primal(ctx, operator.getitem, (self.prim, key), {})
        if isinstance(prim, np.ndarray):
            return wrap_view(self, prim)
        return element(self, key, prim)
    key = own_key(key)
    prim = self.arr[key] if self.plain else run_primal(ctx, operator.getitem, (self.prim, key), {})
    if not isinstance(prim, np.ndarray):
        return element(self, key, prim)
    out = wrap_over(ctx, prim)
    ctx.gather(self, key, out)
    return out


cdef int store_at(TrackedArray self, object key, object value) except -1:
    """A store that is not one of a number into an element."""
    cdef Context ctx = self.ctx
    cdef TrackedArray target
    check_conflict(self.place.buf)
    key = plain_key(key)
    value = value.copy() if type(value) is Flat else object_operand(value) if not is_tracked(value) else value
    if is_basic(key):
        if key is Ellipsis:
            target = self
        else:
            # An Ellipsis more makes a view of an element, too.
            target = wrap_view(self, run_primal(ctx, operator.getitem, (
                self.prim, (key if type(key) is tuple and Ellipsis in key else
                            (key if type(key) is tuple else (key,)) + (Ellipsis,))), {}))
        if not PyArray_CHKFLAGS(target.arr, NPY_ARRAY_WRITEABLE):
            raise ValueError("assignment destination is read-only")
        ctx.store(target, value)
        return 0
    if not PyArray_CHKFLAGS(self.arr, NPY_ARRAY_WRITEABLE):
        raise ValueError("assignment destination is read-only")
    key = own_key(key)
    if is_array(value) and (<TrackedArray>value).ctx is ctx and may_overlap(self.place, (<TrackedArray>value).place):
        value = as_read(self, key, <TrackedArray>value)
    ctx.scatter(self, key, value)
    return 0


cdef object as_read(TrackedArray target, object key, TrackedArray value):
    """The value of a store into memory that it shares, as NumPy comes to read it: where the index is a mask, some of its
    entries after they have been written. The same store of whole numbers, in memory of the same layout, says which."""
    cdef Py_ssize_t low = min(target.place.first, value.place.first)
    cdef Py_ssize_t high = max(target.place.last, value.place.last)
    cdef ndarray block = run_plain(np.zeros, (high - low, np.uint8))
    cdef char* base = <char*>PyArray_DATA(block) - low
    order = run_plain(_read_order, (target.place.array_at(base, block), key, value.place.array_at(base, block)))
    return value if order is None else np.ravel(value)[order]


def _read_order(target, key, value):
    value[...] = np.arange(value.size).reshape(value.shape)
    given = value.copy()
    target[key] = value
    written = target[key]
    clean = np.empty_like(written)
    clean[...] = given
    return None if np.array_equal(written, clean) else np.real(written).astype(np.intp)


cdef object scalar_item(object value, object key):
    """value[key] of a number, which NumPy indexes like an array without axes."""
    if type(key) is tuple and not key or key is Ellipsis:
        return value
    if isinstance(key, (int, np.integer)) and not isinstance(key, (bool, np.bool_)):
        raise IndexError("invalid index to scalar variable.")
    return _axisless(value)[key]


cdef object _scalar_dtype(object value):
    return np.dtype(f32) if is_scalar(value) and (<Scalar>value).kind == SINGLE else np.result_type(plain_value(value))


def _scalar_astype(value, dtype, **kwargs):
    dtype = np.dtype(dtype)
    if dtype.kind in "fc":
        return value if dtype == _scalar_dtype(value) else _axisless(value).astype(dtype)[()]
    if dtype.hasobject:
        return objects_of(value)
    return dtype.type(plain_value(value))


def _axisless(value):
    return stack_nested([value], None)[0:1].reshape(())


def _scalar_view(value, dtype=None):
    if dtype is None or np.dtype(dtype) == _scalar_dtype(value):
        return value
    raise ADError("a view of a tracked number as another type would lose the derivative; use astype")


def _scalar_to_device(value, device, *, stream=None):
    f64(0.0).to_device(device, stream=stream)
    return value


# Methods of np.float64 that could only change a number.
cdef frozenset _IN_PLACE = frozenset({"fill", "put", "resize", "setfield", "setflags"})

cdef frozenset _ARRAY_PROTOCOLS = frozenset({"__array__", "__array_interface__", "__array_struct__"})

cdef set _SCALAR_SAME = {"item", "copy", "transpose", "conj", "conjugate", "squeeze", "__copy__", "tolist"}
cdef dict _SCALAR_VALUES = {
    "shape": lambda v: (), "ndim": lambda v: 0, "size": lambda v: 1, "dtype": _scalar_dtype,
    "T": lambda v: v, "real": lambda v: v, "imag": lambda v: 0.0, "strides": lambda v: (),
    "itemsize": lambda v: _scalar_dtype(v).itemsize, "nbytes": lambda v: _scalar_dtype(v).itemsize,
    "astype": lambda v: functools.partial(_scalar_astype, v),
    "reshape": lambda v: stack_nested([v], None).reshape,
    "ravel": lambda v: stack_nested([v], None).ravel, "flatten": lambda v: stack_nested([v], None).flatten,
    "is_integer": lambda v: float(plain_value(v)).is_integer, "fromhex": lambda v: f64.fromhex,
    "base": lambda v: None, "device": lambda v: "cpu", "flags": lambda v: f64(0.0).flags,
    "flat": lambda v: _axisless(v).flat, "view": lambda v: functools.partial(_scalar_view, v),
    "to_device": lambda v: functools.partial(_scalar_to_device, v),
    **{name: (lambda v, name=name: getattr(_axisless(v), name)) for name in ("diagonal", "swapaxes", "sort", "trace")},
}

def _compress(a, condition, axis=None, out=None):
    return np.compress(condition, a, axis, out)


# Methods of ndarray that are functions of NumPy's under the same name; those have the rule.
cdef dict _METHODS = {"compress": _compress, **{
    name: getattr(np, name) for name in (
        "all", "any", "argmax", "argmin", "argpartition", "argsort", "choose", "clip", "cumprod", "cumsum", "max",
        "mean", "min", "nonzero", "prod", "repeat", "round", "searchsorted", "std", "sum", "take", "trace", "var")
}}

_ATTRIBUTES = frozenset({"strides", "itemsize", "nbytes", "flags", "device"})

# Given out by arrays that hold no active value; their memory counts as exposed from then on.
_HANDED_OUT = frozenset({"data", "ctypes", "tobytes", "tofile", "dump", "dumps", "__array_interface__"})

_REFUSED = {
    "data": "would hand out its memory without the derivative",
    "ctypes": "would hand out its memory without the derivative",
    "tobytes": "would lose the derivative; use the values' own (cyad.ignore_derivatives(x))",
    "tofile": "would lose the derivative; write the values' own (cyad.ignore_derivatives(x))",
    "dump": "would lose the derivative",
    "dumps": "would lose the derivative",
    "resize": "cannot be done in place: views of it share the memory of its derivative; use np.resize",
    "setfield": "would bypass the derivative",
    "getfield": "would lose the derivative",
    "byteswap": "would lose the derivative",
}
if hasattr(np.ndarray, "tostring"):   # before NumPy 2.3
    _HANDED_OUT |= {"tostring"}
    _REFUSED["tostring"] = _REFUSED["tobytes"]
