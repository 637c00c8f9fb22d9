"""Memory and its shadow: the ground floor under both modes.

A `Buffer` is a range of bytes that some array owns, together with its shadow: memory of the same geometry that
holds tangents (forward) or adjoints (reverse), one copy for each lane, lanes `lane_bytes` apart. A `View` is a
geometry over a buffer: offset, shape and strides in bytes. It never points to a shadow, because the shadow may come
later than the view; the address of its shadow in lane l is `buf.shadow + l * buf.lane_bytes + offset`, with the strides of
the primal. So a view of the primal is the same view of the shadow, and aliasing is right by construction.

A buffer does not keep its primal memory alive by itself: the arrays that the user holds do, and `owner` does from the moment
that a tape refers to the values. That is what lets the memory of a temporary go as soon as nobody needs its values.

Rejected: a shadow ndarray beside each primal ndarray (a view made before the first active store would miss its shadow);
copy-on-write of whole buffers (quadratic in element loops).

Thread safety: no state outside the objects; an object belongs to the call that made it.
"""
cimport cython
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from numpy cimport (
    NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE, PyArray_DIMS, PyArray_CHKFLAGS, PyArray_Descr, PyArray_DescrFromType,
    PyArray_DATA, PyArray_ITEMSIZE, PyArray_NDIM, PyArray_SIZE, PyArray_STRIDES, PyArray_TYPE, import_array, ndarray,
    npy_intp,
)

import_array()

from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport PyObject, PyTypeObject, Py_INCREF

cdef extern from "numpy/arrayobject.h":
    PyTypeObject PyArray_Type
    object PyArray_NewFromDescr(PyTypeObject* subtype, PyArray_Descr* descr, int nd, const npy_intp* dims,
                                const npy_intp* strides, void* data, int flags, PyObject* obj)
    ndarray new_array "PyArray_SimpleNew"(int nd, npy_intp* dims, int typenum)
    int PyArray_SetBaseObject(ndarray arr, object obj) except -1
    PyArray_Descr* DescrFromType "PyArray_DescrFromType"(int typenum)

    ctypedef struct PyDataMemAllocator:
        void* ctx
        void* (*malloc)(void* ctx, size_t size) noexcept
        void* (*calloc)(void* ctx, size_t count, size_t size) noexcept
        void* (*realloc)(void* ctx, void* data, size_t size) noexcept
        void (*free)(void* ctx, void* data, size_t size) noexcept

    ctypedef struct PyDataMem_Handler:
        char name[127]
        unsigned char version
        PyDataMemAllocator allocator

    object PyDataMem_SetHandler(object handler)


cdef extern from *:
    """
    #if defined(__linux__)
    #include <sys/mman.h>
    #endif
    /* What NumPy does for its arrays of 4 MB and more: a page of 2 MB is one page fault where 512 small ones are as many. */
    #if defined(__GLIBC__)
    #include <malloc.h>
    #define cyad_room(data) ((Py_ssize_t)malloc_usable_size(data))
    #else
    #define cyad_room(data) ((Py_ssize_t)0)
    #endif
    static void cyad_huge_pages(char *data, Py_ssize_t nbytes) {
    #if defined(MADV_HUGEPAGE)
        Py_ssize_t skip = (4096 - (Py_ssize_t)((Py_uintptr_t)data % 4096)) % 4096;
        if (nbytes >= 1 << 22) madvise(data + skip, (size_t)(nbytes - skip), MADV_HUGEPAGE);
    #else
        (void)data, (void)nbytes;
    #endif
    }
    """
    void huge_pages "cyad_huge_pages"(char* data, Py_ssize_t nbytes) noexcept
    Py_ssize_t room_of "cyad_room"(void* data) noexcept


# Shadow memory that was just let go, to be used again while it is warm: fresh pages cost more than what is computed on them.
# Under the GIL. `trim_blocks` gives back what exceeds KEPT_BYTES when a sweep ends.
cdef enum:
    KEPT_BLOCKS = 16
    KEPT_BYTES = 1 << 25

cdef char* kept_data[KEPT_BLOCKS]
cdef Py_ssize_t kept_size[KEPT_BLOCKS]
cdef int kept_count = 0


cdef char* take_block(Py_ssize_t nbytes) noexcept:
    """Kept memory of exactly this size, NULL if there is none."""
    global kept_count
    cdef int i
    cdef char* data
    for i in range(kept_count - 1, -1, -1):
        if kept_size[i] == nbytes:
            data = kept_data[i]
            kept_count -= 1
            kept_data[i] = kept_data[kept_count]
            kept_size[i] = kept_size[kept_count]
            return data
    return NULL


cdef void trim_blocks() noexcept:
    global kept_count
    cdef Py_ssize_t total = 0
    cdef int i, left = 0
    for i in range(kept_count):
        if total + kept_size[i] <= KEPT_BYTES:
            total += kept_size[i]
            kept_data[left] = kept_data[i]
            kept_size[left] = kept_size[i]
            left += 1
        else:
            free(kept_data[i])
    kept_count = left


cdef void release_blocks(Py_ssize_t wanted) noexcept:
    """Gives back kept memory where at least `wanted` bytes are about to be used for something else, and are many."""
    global kept_count
    if wanted <= KEPT_BYTES:
        return
    while kept_count > 0 and wanted > 0:
        kept_count -= 1
        wanted -= kept_size[kept_count]
        free(kept_data[kept_count])


cdef bint keep_block(char* data, Py_ssize_t nbytes) noexcept:
    global kept_count
    if nbytes < SMALLEST_KEPT or kept_count == KEPT_BLOCKS or data is NULL:
        return False
    kept_data[kept_count] = data
    kept_size[kept_count] = nbytes
    kept_count += 1
    return True


# The same memory for the arrays that NumPy itself makes, while a call works on large ones by ordinary NumPy calls: a handler as
# of NEP 49, which NumPy calls under the GIL. An array remembers the handler that its memory came from, so it may outlive the call.

cdef void* kept_malloc(void* ctx, size_t size) noexcept:
    cdef char* data = take_block(size) if size >= SMALLEST_KEPT else NULL
    if data is NULL:
        data = <char*>malloc(size + 8)
        if data is not NULL:
            huge_pages(data, size)
    return data


cdef void* kept_calloc(void* ctx, size_t count, size_t size) noexcept:
    cdef size_t nbytes = count * size
    cdef char* data = NULL
    if size != 0 and nbytes // size != count:
        return NULL
    if nbytes >= SMALLEST_KEPT:
        data = take_block(nbytes)
    if data is not NULL:
        memset(data, 0, nbytes)
        return data
    data = <char*>calloc(1, nbytes + 8)
    if data is not NULL:
        huge_pages(data, nbytes)
    return data


cdef void* kept_realloc(void* ctx, void* data, size_t size) noexcept:
    return realloc(data, size + 8)


cdef void kept_free(void* ctx, void* data, size_t size) noexcept:
    # The size is what the array says of itself by now: the allocator knows better.
    if data is NULL or room_of(data) < <Py_ssize_t>size + 8 or not keep_block(<char*>data, size):
        free(data)


cdef PyDataMem_Handler kept_handler
memset(&kept_handler, 0, sizeof(kept_handler))
memcpy(kept_handler.name, b"cyad", 5)
kept_handler.version = 1
kept_handler.allocator.malloc = kept_malloc
kept_handler.allocator.calloc = kept_calloc
kept_handler.allocator.realloc = kept_realloc
kept_handler.allocator.free = kept_free
cdef object KEPT_HANDLER = PyCapsule_New(&kept_handler, "mem_handler", NULL)


cdef object set_handler(object handler):
    """NumPy's allocator for this thread from now on (None: kept memory); returns the one until now."""
    return PyDataMem_SetHandler(KEPT_HANDLER if handler is None else handler)


@cython.final
@cython.freelist(64)
@cython.no_gc
cdef class Block:
    """Bytes that are let go when the last array over them goes."""

    def __dealloc__(self):
        if not keep_block(self.data, self.nbytes):
            free(self.data)


cdef Block new_block(Py_ssize_t nbytes, bint zero):
    cdef Block block = Block.__new__(Block)
    block.nbytes = nbytes
    if nbytes >= SMALLEST_KEPT:
        block.data = take_block(nbytes)
    if block.data is not NULL:
        if zero:
            memset(block.data, 0, nbytes)
        return block
    block.data = <char*>(calloc(1, nbytes + 8) if zero else malloc(nbytes + 8))
    if block.data is NULL:
        raise MemoryError(f"cannot allocate {nbytes} bytes for a shadow")
    huge_pages(block.data, nbytes)
    return block


cdef ndarray new_result(int ndim, npy_intp* dims, int typenum, Py_ssize_t itemsize):
    """An uninitialised array for the result of an operation; large ones in kept memory, of which they hold the Block."""
    cdef Py_ssize_t nbytes = itemsize
    cdef int i
    cdef Block block
    cdef ndarray out
    for i in range(ndim):
        nbytes *= dims[i]
    if nbytes < SMALLEST_KEPT:
        return new_array(ndim, dims, typenum)
    block = new_block(nbytes, False)
    out = PyArray_NewFromDescr(&PyArray_Type, DescrFromType(typenum), ndim, dims, NULL, block.data, NPY_ARRAY_WRITEABLE, NULL)
    Py_INCREF(block)   # SetBaseObject steals it
    PyArray_SetBaseObject(out, block)
    return out


@cython.final
@cython.freelist(64)
@cython.no_gc
cdef class Buffer:
    """A range of primal memory and its shadow.

    `active` says that some value in it depends on an input; `referred` that a tape needs values out of it (bytes
    `referred_from` to `referred_to`); `exposed` that its plain memory was handed to compiled code; `written`
    that a tape saw a write into it; `constant` that it is a Const argument
    (named `name`); `conflict` that two shadows map it differently, so that it may only be read. `lanes` replaces `shadow` where the
    shadow itself is tracked by an outer differentiation. `tangent` is a second shadow, of one lane, for a sweep of second order.
    """

    cdef int make_shadow(self, int width, bint zero) except -1:
        cdef Block block = new_block(self.nbytes * width, zero)
        self.shadow = block.data
        self.shadow_owner = block
        self.lane_bytes = self.nbytes
        return 0

    cdef int make_tangent(self, bint zero) except -1:
        cdef Block block = new_block(self.nbytes, zero)
        self.tangent = block.data
        self.tangent_owner = block
        return 0

    cdef void drop_shadow(self) noexcept:
        if not self.borrowed_shadow:
            self.shadow = NULL
            self.shadow_owner = None
            self.lanes = None


@cython.final
@cython.freelist(128)
@cython.no_gc
cdef class View:
    """Shape and strides (bytes) at an offset into a buffer; `first` and `last` bound the bytes that it touches.

    `overlaps` says that two indices may name the same element (broadcast axes, sliding windows): adding to such a shadow must
    go element by element.
    """

    def __dealloc__(self):
        if self.shape is not NULL and self.shape != self.dims:
            free(self.shape)

    cdef ndarray array_at(self, char* base, object owner):
        """The ndarray of this geometry over memory that starts at `base` and that `owner` keeps alive."""
        cdef PyArray_Descr* descr = DescrFromType(self.typenum)
        cdef ndarray out = PyArray_NewFromDescr(&PyArray_Type, descr, self.ndim, self.shape, self.strides,
                                                base + self.offset, NPY_ARRAY_WRITEABLE, NULL)
        Py_INCREF(owner)   # SetBaseObject steals it
        PyArray_SetBaseObject(out, owner)
        return out

    cdef ndarray primal(self):
        return self.array_at(self.buf.data, self.buf.owner)

    cdef bint is_whole(self) noexcept:
        """Whether the view names every element of its buffer exactly once, in order."""
        return self.contiguous and self.last - self.first == self.buf.nbytes

    cdef tuple shape_tuple(self):
        return tuple([self.shape[i] for i in range(self.ndim)])


cdef Buffer buffer_of_new(ndarray arr):
    """The buffer of an array that owns its memory and is laid out without gaps."""
    cdef Buffer buf = Buffer.__new__(Buffer)
    buf.data = <char*>PyArray_DATA(arr)
    buf.nbytes = PyArray_SIZE(arr) * PyArray_ITEMSIZE(arr)
    buf.typenum = PyArray_TYPE(arr)
    return buf


cdef View view_of(Buffer buf, ndarray arr):
    """The geometry of `arr`, whose memory lies in `buf`."""
    cdef View v = View.__new__(View)
    cdef int i, ndim = PyArray_NDIM(arr)
    cdef Py_ssize_t itemsize = PyArray_ITEMSIZE(arr)
    cdef Py_ssize_t low = 0, high = itemsize, reach, size = 1
    cdef npy_intp* shape = PyArray_DIMS(arr)
    cdef npy_intp* strides = PyArray_STRIDES(arr)
    v.buf = buf
    v.ndim = ndim
    v.typenum = PyArray_TYPE(arr)
    v.offset = <char*>PyArray_DATA(arr) - buf.data
    v.contiguous = PyArray_CHKFLAGS(arr, NPY_ARRAY_C_CONTIGUOUS)
    if ndim <= INLINE_DIMS:
        v.shape = v.dims
    else:
        v.shape = <npy_intp*>malloc(2 * ndim * sizeof(npy_intp))
        if v.shape is NULL:
            raise MemoryError()
    v.strides = v.shape + ndim
    for i in range(ndim):
        v.shape[i] = shape[i]
        v.strides[i] = strides[i]
        size *= shape[i]
        reach = (shape[i] - 1) * strides[i]
        if reach < 0:
            low += reach
        else:
            high += reach
    v.size = size
    v.overlaps = size != 0 and not v.contiguous and names_twice(v, PyArray_ITEMSIZE(arr))
    if size == 0:
        low = high = 0
    v.first = v.offset + low
    v.last = v.offset + high
    return v


cdef bint names_twice(View v, Py_ssize_t itemsize) noexcept:
    """Whether, the axes sorted by stride, one steps inside what the finer ones span (which a layout without repeats never does)."""
    cdef Py_ssize_t span = itemsize, stride, best
    cdef int i, j, chosen
    cdef bint used[64]
    memset(used, 0, sizeof(used))
    for i in range(v.ndim):
        chosen = -1
        best = 0
        for j in range(v.ndim):
            stride = v.strides[j] if v.strides[j] >= 0 else -v.strides[j]
            if not used[j] and (chosen < 0 or stride < best):
                chosen = j
                best = stride
        used[chosen] = True
        if v.shape[chosen] <= 1:
            continue
        if best < span:
            return True
        span = best * (v.shape[chosen] - 1) + span
    return False


cdef bint same_geometry(View a, View b) noexcept:
    """Whether two views name the same elements in the same order."""
    cdef int i
    if a.buf is not b.buf or a.offset != b.offset or a.ndim != b.ndim:
        return False
    for i in range(a.ndim):
        if a.shape[i] != b.shape[i] or (a.strides[i] != b.strides[i] and a.shape[i] > 1):
            return False
    return True


cdef bint may_overlap(View a, View b) noexcept:
    return a.buf is b.buf and a.first < b.last and b.first < a.last


cdef bint broadcast_strides(View v, int ndim, const npy_intp* shape, npy_intp* out) noexcept:
    """Strides of `v` broadcast to `shape`; returns whether any axis is repeated."""
    cdef int i, j
    cdef bint repeated = False
    for i in range(ndim):
        j = i - (ndim - v.ndim)
        if j < 0 or (v.shape[j] == 1 and shape[i] != 1):
            out[i] = 0
            repeated = repeated or shape[i] != 1
        else:
            out[i] = v.strides[j]
    return repeated


cdef tuple extent_of(ndarray arr):
    """Address of the first byte that an array touches, and of the one behind the last."""
    cdef Py_ssize_t low = <Py_ssize_t>PyArray_DATA(arr)
    cdef Py_ssize_t high = low + PyArray_ITEMSIZE(arr), reach
    cdef int i
    if PyArray_SIZE(arr) == 0:
        return low, low
    for i in range(PyArray_NDIM(arr)):
        reach = (PyArray_DIMS(arr)[i] - 1) * PyArray_STRIDES(arr)[i]
        if reach < 0:
            low += reach
        else:
            high += reach
    return low, high


cdef object behind_lane_axis(object lanes, int ndim):
    """Lanes of shape (W, *s) made to broadcast, lane by lane, against arrays of `ndim` axes.

    NumPy lines axes up from the right. An operand of lower rank must get its missing axes behind the lane axis: without them
    the lane axis would meet an array axis, and where both have W elements nothing would complain.
    """
    cdef int missing = ndim - (lanes.ndim - 1)
    return lanes.reshape(lanes.shape[:1] + (1,) * missing + lanes.shape[1:]) if missing > 0 else lanes
