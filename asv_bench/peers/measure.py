"""One cell: a library on a workload, in a process of its own on one core. Prints a line of JSON; `run.py` starts it.

The derivative and the plain NumPy run are timed in turn, in blocks of at least a millisecond; the ratio is the median
over the pairs, so that what other programs do to caches and clock falls on both. Time is that of the processor, on one
core: a derivative of a second is interrupted on a busy machine, a plain run of a millisecond is not, and the ratio of
what a wall clock says would be several times too large.
"""
import importlib.metadata
import json
import os
import resource
import statistics
import sys
import time

LARGE_TOLERANCE = 1e-3   # of differences at the timed size, where there is no derivative by hand to compare with
SHORTEST_BLOCK, FEWEST_PAIRS, LONG = 1e-3, 3, 1.0  # a derivative that takes longer is timed once


def one_core(core):
    """Before NumPy and the libraries are imported, which read these once."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.sched_setaffinity(0, {core})


def seconds(f, calls=1):
    start = time.process_time()
    for _ in range(calls):
        f()
    return (time.process_time() - start) / calls


def pairs(derivative, plain, budget):
    """Seconds of (derivative, plain), one after the other, until the budget is used."""
    calls, out, start = [1, max(1, round(SHORTEST_BLOCK / max(seconds(plain), 1e-6)))], [], time.process_time()
    once = seconds(derivative)
    if once > LONG:
        return [(once, seconds(plain, calls[1]))]
    calls[0] = max(1, round(SHORTEST_BLOCK / max(once, 1e-6)))
    while len(out) < FEWEST_PAIRS or time.process_time() - start < budget:
        out.append((seconds(derivative, calls[0]), seconds(plain, calls[1])))
    return out


def peak_of(f):
    """f(), and by how many bytes resident memory exceeded what it was before."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak from now on
    before = resident("VmRSS")
    result = f()
    return result, resident("VmHWM") - before


def resident(what):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(what))


def cell(library_name, workload_name, size, budget):
    import numpy as np

    from peers.by_hand import BY_HAND
    from peers.checks import agree, difference_error, fingerprint, tolerance
    from peers.libraries import LIBRARIES, Unable
    from peers.workloads import WORKLOADS
    workload = WORKLOADS[workload_name]
    try:
        library = LIBRARIES[library_name]()
        small = workload.build(workload.small)
        error = difference_error(workload, small, library.prepare(workload, small)())
    except ModuleNotFoundError as missing:
        return {"kind": "absent", "error": str(missing)}
    except Unable as reason:
        return {"kind": "unable", "error": str(reason)}
    if not error <= tolerance(workload):
        return {"kind": "wrong", "error": f"off finite differences by {error:.1e} at size {workload.small}"}
    problem = workload.build(size)
    f, argument = problem.source(np), problem.x.tolist() if workload.floats else problem.x
    f(argument)
    start = time.process_time()
    run = library.prepare(workload, problem)
    result, peak = peak_of(run)
    first = time.process_time() - start
    print_ = fingerprint(result)
    if workload_name not in BY_HAND:
        error = difference_error(workload, problem, result)
        if not error <= LARGE_TOLERANCE:
            return {"kind": "wrong", "error": f"off finite differences by {error:.1e} at size {size}"}
    del result
    times = pairs(run, lambda: f(argument), budget)
    if not agree(fingerprint(run()), print_):
        return {"kind": "wrong", "error": "not the same derivative after it was timed"}
    return {"kind": "measured", "ratio": statistics.median(a / b for a, b in times),
            "seconds": statistics.median(a for a, _ in times), "primal": statistics.median(b for _, b in times),
            "first": first, "peak": peak, "pairs": len(times), "fingerprint": print_,
            "version": importlib.metadata.version(library.package)}


def main():
    library, workload, size, budget, core, memory = json.loads(sys.argv[1])
    one_core(core)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    try:
        result = cell(library, workload, size, budget)
    except MemoryError:
        result = {"kind": "memory", "error": f"needs over {memory / 1e9:g} GB"}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
