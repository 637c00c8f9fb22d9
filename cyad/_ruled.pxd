from cyad._rulecall cimport Call

cdef object serve(Call call)
