"""`import cyad` in a fresh interpreter, beside `import numpy`; and the first gradient, which catches NumPy's calls."""
import os
import statistics
import subprocess
import sys

FIRST = "import cyad, numpy; cyad.gradient(cyad.Reverse, lambda x: numpy.sum(x * x), numpy.ones(3))"


def timeraw_import():
    return "import cyad"


def timeraw_import_numpy():
    return "import numpy"


def timeraw_first_gradient():
    return FIRST


def _processor_seconds(code):
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def track_ratio_of_import(rounds=5):
    """Of `import cyad`, which imports NumPy, over `import numpy`: whole processes, in turn."""
    return statistics.median(_processor_seconds("import cyad") / _processor_seconds("import numpy")
                             for _ in range(rounds))


track_ratio_of_import.unit = "times import numpy"
