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


def _peak_bytes(code):
    """By /proc: what getrusage says of a process that starts another counts for that one, too."""
    report = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    out = subprocess.run([sys.executable, "-c", f"{code}; {report}"], check=True, capture_output=True, text=True)
    return int(out.stdout) * 1024


def _ratio(measure, code, rounds=1):
    """Over `import numpy`, whole processes, in turn."""
    return statistics.median(measure(code) / measure("import numpy") for _ in range(rounds))


def track_ratio_of_import():
    """cyad imports NumPy."""
    return _ratio(_processor_seconds, "import cyad", 5)


def track_ratio_of_first_gradient():
    return _ratio(_processor_seconds, FIRST, 5)


def track_peak_ratio_of_import():
    return _ratio(_peak_bytes, "import cyad")


def track_peak_ratio_of_first_gradient():
    return _ratio(_peak_bytes, FIRST)


for _track in (track_ratio_of_import, track_ratio_of_first_gradient, track_peak_ratio_of_import,
               track_peak_ratio_of_first_gradient):
    _track.unit = "times import numpy"
