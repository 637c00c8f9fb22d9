"""The workloads that are timed beside other libraries: their derivatives by cyad and by hand are right, a wrong one is
found, and results become the table that they should. No peer library is needed."""
import importlib
import itertools
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import cyad

BENCH = Path(__file__).parent.parent / "asv_bench"
sys.path.insert(0, str(BENCH))
try:
    import benchmarks
    from adbench import gmm, lstm  # noqa: F401  (workloads import them later, when the path is as it was)
    from benchmarks.common import _ByHand
    from peers import report, run
    from peers.by_hand import BY_HAND
    from peers.checks import agree, difference_error, fingerprint, tolerance
    from peers.libraries import LIBRARIES, Unable
    from peers.rewrites import REWRITES, UNABLE
    from peers.workloads import WORKLOADS
    SUITES = {f"{module.name}.{name}": suite for module in pkgutil.iter_modules(benchmarks.__path__)
              for name, suite in vars(importlib.import_module(f"benchmarks.{module.name}")).items()
              if isinstance(suite, type) and suite.__module__.endswith(module.name) and not name.startswith("_")
              and any(a.startswith(("time_", "track_", "peakmem_")) for a in dir(suite))}
finally:
    sys.path.remove(str(BENCH))

NOT_BY_HAND = {
    "bench_arrays.RegressionParts": "its parts are parts of a derivative by hand",
    "bench_redirect.Captured": "nothing is differentiated: what is timed are plain statements",
    "bench_redirect.Outside": "nothing is differentiated: what is timed are plain statements",
    "bench_rules.PrimitiveCalls": "its rules compute nothing: what is timed by hand is their calls",
    "bench_workloads.Workloads": "those written by hand are WorkloadsByHand",
    "bench_workloads.LargeMemory": "one of WorkloadsByHand at a size for which only memory is of interest",
}
LONG_BY_HAND = {"lv_rev", "lv_fwd", "gmm", "gmm_at_once", "lstm"}  # Runge-Kutta steps, ADBench's objectives


@pytest.mark.parametrize(("library", "name"), [*(("cyad", name) for name in WORKLOADS),
                                               *(("hand", name) for name in BY_HAND)])
def test_derivative(library, name):
    workload = WORKLOADS[name]
    problem = workload.build(workload.small)
    derivative = np.asarray(LIBRARIES[library]().prepare(workload, problem)())
    assert difference_error(workload, problem, derivative) <= tolerance(workload)
    wrong = derivative.copy()
    wrong.flat[np.argmax(np.abs(wrong))] *= 1.1
    assert difference_error(workload, problem, wrong) > tolerance(workload)


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand_agrees_with_cyad(name):
    """At sizes like the timed ones; the chain's gradient is far below the square root of the smallest number."""
    workload = WORKLOADS[name]
    problem = workload.build(min(1000, *workload.sizes))
    by_hand, by_cyad = (np.asarray(LIBRARIES[n]().prepare(workload, problem)()) for n in ("hand", "cyad"))
    assert agree(fingerprint(by_hand), fingerprint(by_cyad))
    by_cyad = by_cyad.copy()
    by_cyad.flat[np.argmax(np.abs(by_cyad))] *= 1.0 + 1e-6
    assert not agree(fingerprint(by_hand), fingerprint(by_cyad))
    assert not agree(fingerprint(by_hand), fingerprint(np.full(3, np.nan)))


def test_what_is_not_written_by_hand():
    assert NOT_BY_HAND.keys() == {name for name, suite in SUITES.items() if not issubclass(suite, _ByHand)}
    assert LONG_BY_HAND == WORKLOADS.keys() - BY_HAND.keys()


@pytest.mark.parametrize("name", [name for name in SUITES if name not in NOT_BY_HAND])
def test_benchmarks_by_hand_agree_with_cyad(name):
    suite = SUITES[name]
    for cell in itertools.product(*(suite.params if isinstance(suite.params[0], list) else [suite.params])):
        by_cyad, by_hand = suite(), suite()  # each may write into its data
        by_cyad.setup(*cell)
        by_hand.setup(*cell)
        want, got = cyad.ravel(by_cyad.derivative())[0], cyad.ravel(by_hand.by_hand())[0]
        assert np.any(want)
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9 * np.max(np.abs(want)), err_msg=str(cell))


def test_tables_name_what_exists():
    for name, library in [*REWRITES, *UNABLE]:
        assert name in WORKLOADS and library in LIBRARIES
    with pytest.raises(Unable, match="not written by hand"):
        LIBRARIES["hand"]().prepare(WORKLOADS["lv_rev"], None)
    assert set(REWRITES).isdisjoint(UNABLE)


def measured(ratio, print_=(1.0, 1.0, 0.5, 0.5)):
    return {"kind": "measured", "ratio": ratio, "seconds": 2e-3, "primal": 1e-3, "first": 0.1, "peak": 0, "pairs": 9,
            "fingerprint": list(print_), "version": "1"}


def test_the_lower_of_two_runs_counts():
    late, wrong = {"kind": "limit", "error": ""}, {"kind": "wrong", "error": ""}
    assert run.better(None, late) is late
    assert run.better(measured(2.0), measured(1.0))["ratio"] == run.better(measured(1.0), measured(2.0))["ratio"] == 1.0
    assert run.better(measured(2.0), late)["ratio"] == run.better(late, measured(2.0))["ratio"] == 2.0
    assert run.better(measured(2.0), wrong) is wrong


def test_disagreement_is_found():
    row = {"hand": measured(1.0), "cyad": measured(1.0), "torch": measured(1.0, (1.0, 1.0, 0.5, 0.4))}
    run.disagreements(row)
    assert [r["kind"] for r in row.values()] == ["measured", "measured", "wrong"]


def test_table():
    cells = {"chain:1000": {"hand": measured(1.9), "cyad": measured(1.04), "torch": {"kind": "unable", "error": ""}},
             "rosen_vec:10000000": {"cyad": measured(5.123), "torch": {"kind": "limit", "error": ""}}}
    assert report.table({"cells": cells}).splitlines() == [
        "| workload | plain run | bar | by hand | **cyad** | PyTorch |", "|---|--:|--:|--:|--:|--:|",
        "| chain 1000 | 1 ms | 1 | 1.9 | 1 ! | - |", "| rosen_vec 10^7 | 1 ms | 6 |  | 5.1 | dnf |"]


def test_command(tmp_path):
    """From another folder, in a fresh process: one cheap cell, checked, timed and printed."""
    command = [sys.executable, str(BENCH / "peers" / "run.py"), "-w", "rosen_vec:10", "-l", "hand,cyad", "-o", "-"]
    out = subprocess.run([*command, "--runs", "1", "--budget", "0.01"], cwd=tmp_path, capture_output=True, text=True,
                         check=True)
    lines = out.stdout.splitlines()
    assert lines[0].startswith("rosen_vec:10  hand") and "pairs" in lines[0]
    assert lines[-1].startswith("| rosen_vec 10 |")
    assert "cyad" in lines[1] and "pairs" in lines[1]


def test_cell_that_takes_too_long():
    options = SimpleNamespace(budget=1e3, limit=2, core=max(os.sched_getaffinity(0)), memory=8.0)
    result = run.measured("cyad", "rosen_vec", 10, options)
    assert result == {"kind": "limit", "error": "not done in 2 s"}
