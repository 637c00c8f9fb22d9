from cyad._tracked cimport Context

cdef object unwrap(Context ctx, object value)
cdef tuple wrap_all(Context ctx, list named, int width)
cdef tuple as_call(object args, dict kwargs, list named, list values)
