"""`import cyad` in a fresh interpreter, beside `import numpy`; and the first gradient, which catches NumPy's calls."""


def timeraw_import():
    return "import cyad"


def timeraw_import_numpy():
    return "import numpy"


def timeraw_first_gradient():
    return "import cyad, numpy; cyad.gradient(cyad.Reverse, lambda x: numpy.sum(x * x), numpy.ones(3))"
