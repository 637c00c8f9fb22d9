from cyad._adjoint cimport Tape

cdef object adjoint_value(Tape tape, object value, int lane, object primal)
cdef object scalar_result(Tape tape, object f, object result)
