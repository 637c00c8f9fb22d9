from libc.stdint cimport uint32_t
from numpy cimport ndarray

from cyad._context cimport Context, TrackedArray
from cyad._nodes cimport Node, Operand, Recording
from cyad._shadow cimport Buffer, View
from cyad._tracked cimport DuckArray, DuckValue
from cyad.rules._kernels cimport Row

# Operation codes above those of the elementwise table.
cdef enum:
    VARIABLE = 0x8000   # an input, or the result of a node
    LOAD = 0x8001       # a: buffer, b: element      value of memory
    LOAD32 = 0x8002
    STORE = 0x8003      # a: slot, b: element, value's bytes: buffer
    STORE32 = 0x8004
    CLEAR = 0x8005      # a: buffer, b: element      a constant entered active memory
    CLEAR32 = 0x8006
    UNDO = 0x8007       # a: buffer, b: element      value: what memory held
    UNDO32 = 0x8008
    NODE = 0x8009       # a: node
    OP_MASK = 0xFFFF
    SLOT_A = 1 << 16    # operand a is a slot; otherwise an entry of the table of constants
    SLOT_B = 1 << 17
    NEED_SHIFT = 16     # shifted down, the two flags are the `need` of cyad_partials

cdef packed struct Record:
    double value
    uint32_t a
    uint32_t b
    uint32_t op

cdef class Tape(Recording):
    cdef Record* records
    cdef uint32_t count
    cdef uint32_t capacity
    cdef double* constants
    cdef uint32_t constant_count
    cdef uint32_t constant_capacity
    cdef uint32_t[256] recent
    cdef list nodes
    cdef list buffers
    cdef list undo
    cdef list unsafe        # views of exposed memory that the next node reads
    cdef dict exposed       # the last save of such memory, by buffer
    cdef dict locked
    cdef bint closed
    cdef bint outlives
    cdef bint second        # a sweep of second order will follow
    cdef dict originals     # then, for the buffers of the caller's arrays: what they held before they were first written, or None
    cdef bint sweeping
    cdef bint entered

    cdef int grow(self) except -1
    cdef int grow_constants(self) except -1
    cdef uint32_t constant(self, double value) except? 0xFFFFFFFF
    cdef int number_of(self, Buffer buf) except -1
    cdef int first_write(self, Buffer buf) except -1
    cdef int refer(self, View v, object arr) except -1
    cdef int refer_tracked(self, TrackedArray a) except -1
    cdef int watch(self, object place) except -1
    cdef int add_node(self, Node node) except -1
    cdef int save_unsafe(self) except -1
    cdef int start_sweep(self, int width) except -1
    cdef int run_sweep(self) except -1
    cdef int end_sweep(self) except -1
    cdef int close(self) except -1
    cdef int unlock(self) except -1
    cdef int verify(self) except -1
    cdef int restore(self, uint32_t reached) except -1
    cdef int swap_element(self, Record* r, uint32_t op) except -1
    cdef char* element_shadow(self, uint32_t number, double* g) except? NULL
    cdef Py_ssize_t lane_bytes(self, uint32_t number) noexcept
    cdef object scalar(self, object value, bint active)
    cdef object result(self, object out, bint active, list places, bint read)
    cdef object arrays(self, Row row, object x, object y)
    cdef AdjointArray own_array(self, ndarray out)
    cdef View recorded(self, object operand, ndarray arr, bint read)
    cdef bint operand(self, object value, Operand* operand, int* typenum) except -1

cdef class Adjoint:
    # The leading fields are those of _tracked.Scalar.
    cdef Context ctx
    cdef double value
    cdef int kind
    cdef uint32_t slot

cdef class AdjointArray(DuckArray):
    pass

cdef class AdjointBox(DuckValue):
    pass

cdef uint32_t stored_buffer(Record* r) noexcept
cdef object name_of(object f)
cdef int seed(Tape tape, object value, int lane, object cotangent) except -1
cdef int hold_shadow(Tape tape, TrackedArray v) except -1
