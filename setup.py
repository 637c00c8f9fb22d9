"""Builds the extensions. Everything else is in pyproject.toml."""
import runpy
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

HERE = Path(__file__).parent
SOURCES = sorted(p.relative_to(HERE) for p in (HERE / "cyad").rglob("*.pyx"))

# The C side of the elementwise rules is written from the same table that Python reads (docs/design.md, "Rules").
runpy.run_path(str(HERE / "cyad" / "rules" / "generate.py"), run_name="__main__")

MACROS = [("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"), ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION")]
# gcc sees Py_None as too small for any of Cython's structs: -Warray-bounds is wrong about casts of it.
FLAGS = ["-O3", "-fno-math-errno", "-Wall", "-Wextra", "-Wno-unused-function", "-Wno-unused-parameter",
         "-Wno-missing-field-initializers", "-Wno-array-bounds", "-Wno-cast-function-type"]
HEADERS = ["cyad/_redirect.h", "cyad/_scalars.h",
           *(f"cyad/rules/{name}.h" for name in ("_kernels", "_loops", "_partials"))]

setup(ext_modules=cythonize(
    [Extension(".".join(p.with_suffix("").parts), [str(p)], include_dirs=[numpy.get_include(), "cyad", "cyad/rules"],
               define_macros=MACROS, extra_compile_args=FLAGS, depends=HEADERS)
     for p in SOURCES],
    language_level=3,
    compiler_directives={"cdivision": True, "initializedcheck": False, "c_api_binop_methods": True,
                         "embedsignature": True, "auto_pickle": False},
))
