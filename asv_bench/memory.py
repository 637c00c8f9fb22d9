"""What docs/performance.md says of memory: bytes on the tape for each operation on numbers, peak of a large gradient.

    python asv_bench/memory.py [ROUNDS]

Each line is a process of its own: the peak of resident memory during the gradient, above what it was before.
"""
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

# Statement of the loop, operations in it, what it is differentiated by: a number, or an array of 1000.
LOOPS = {
    "s = 0.5 * s + a": 2,
    "s = s + c[i]": 1,
    "s = s * c[i] + a": 2,
    "s = s + x[i]": 1,
    "s = s + x[i] ** 2": 2,
    "s = s + x[i] * x[i]": 2,
    "s = s + c[i] * x[i]": 2,
    "y[i] = 0.5 * y[i] + a": 2,
}
LARGE = ["rosen_vec:10000000 gradient", "rosen_vec:10000000 by_hand"]


def resident(what):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(what))


def peak_of(f):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak from now on
    before = resident("VmRSS")
    f()
    return resident("VmHWM") - before


def loop(statement, rounds):
    """The gradient of a loop over the statement."""
    import numpy as np

    import cyad
    by = "x" if "x[" in statement else "a"
    names = {"np": np, "c": np.random.default_rng(0).normal(size=1000), "rounds": rounds}
    exec(f"def f({by}):\n    s, y = {0.0 if 'a' in statement or 'x' in statement else by}, np.zeros(1000)\n"
         f"    for k in range(rounds):\n        i = k % 1000\n        {statement}\n    return s + y[0]", names)
    return lambda: cyad.gradient(cyad.Reverse, names["f"], 0.9 if by == "a" else np.ones(1000))


def large(cell):
    """The gradient of a workload, by cyad or by hand."""
    from peers.libraries import Cyad, Hand
    from peers.workloads import WORKLOADS
    (name, size), how = cell.split()[0].split(":"), cell.split()[1]
    problem = WORKLOADS[name].build(int(size))
    return (Cyad if how == "gradient" else Hand)().prepare(WORKLOADS[name], problem)


def main():
    if len(sys.argv) == 3:   # one of the processes
        what, rounds = sys.argv[1], int(sys.argv[2])
        print(peak_of(loop(what, rounds) if what in LOOPS else large(what)))
        return
    rounds = int(sys.argv[1]) if sys.argv[1:] else 2_000_000
    for what in [*LOOPS, *LARGE]:
        peak = int(subprocess.run([sys.executable, __file__, what, str(rounds)], check=True, capture_output=True,
                                  text=True).stdout)
        if what in LOOPS:
            print(f"{what:24} {peak / LOOPS[what] / rounds:5.1f} bytes an operation", flush=True)
        else:
            print(f"{what:24} {peak / 1e6:5.0f} MB", flush=True)


if __name__ == "__main__":
    main()
