"""Times cyad, its peers and hand-written gradients on the same sources; writes docs/performance.md's table and plot.

    python asv_bench/peers/run.py                                          everything, twice: about half an hour
    python asv_bench/peers/run.py -w chain,mlp:32 -l hand,cyad,torch -o -  some of it, to the terminal only
    python asv_bench/peers/run.py -l hand,cyad --keep                      again for these; the others' figures stay
    python asv_bench/peers/run.py --render                                 table and plot from the last results

`pip install '.[peers]'` brings the libraries; one that is not installed is left out. The exit status is 1 if
a derivative is wrong.
"""
import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEEP_PAGES = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}  # glibc's
sys.path[:1] = [str(HERE.parent)]  # `peers` and `adbench` are packages there

from peers import report  # noqa: E402
from peers.checks import agree  # noqa: E402
from peers.libraries import LIBRARIES  # noqa: E402
from peers.workloads import WORKLOADS  # noqa: E402


def chosen(text):
    """(workload, size) of "chain,mlp:32": all sizes where none is named."""
    for item in text.split(",") if text else WORKLOADS:
        name, _, size = item.partition(":")
        if name not in WORKLOADS:
            sys.exit(f"no workload {name!r}; there are {', '.join(WORKLOADS)}")
        yield from ((name, n) for n in ([int(size)] if size else WORKLOADS[name].sizes))


def processor_seconds(pid):
    """What a process has used so far. (With a limit of the kernel's own its clock would tick in milliseconds.)"""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(library, workload, size, a):
    """The cell's result, from a process of its own, which is given up after the limit; if it sleeps, a little later.

    The allocator keeps freed pages: whether it does is otherwise chance, and changes the plain run on large arrays, by
    which all is divided, up to five times.
    """
    request = json.dumps([library, workload, size, a.budget, a.core, int(a.memory * 1e9)])
    start = time.monotonic()
    with subprocess.Popen([sys.executable, "-m", "peers.measure", request], cwd=HERE.parent, text=True,
                          env=os.environ | KEEP_PAGES, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        while True:
            try:
                out, said = child.communicate(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                if processor_seconds(child.pid) > a.limit or time.monotonic() - start > 10 * a.limit:
                    child.kill()
                    child.communicate()
                    return {"kind": "limit", "error": f"not done in {a.limit} s"}
    if child.returncode:
        lines = said.strip().splitlines() or [f"status {child.returncode}"]
        return {"kind": "failed", "error": lines[-1][:200]}
    return json.loads(out.splitlines()[-1])


def better(old, new):
    """Of two runs the one with the lower ratio; a run that gave a figure over one that did not; else the new one. What
    was wrong once stays so."""
    if old and old["kind"] == "wrong":
        return old
    if old and old["kind"] == "measured" and new["kind"] != "wrong":
        return old if new["kind"] != "measured" or old["ratio"] <= new["ratio"] else new
    return new


def disagreements(cells):
    """Marks, in a row, what differs from the hand-written derivative, or else from what most others came to; where they
    are as many, all."""
    with_result = {name: r for name, r in cells.items() if r["kind"] == "measured"}
    sides = {name: {other for other, s in with_result.items() if agree(r["fingerprint"], s["fingerprint"])}
             for name, r in with_result.items()}
    most = max(map(len, sides.values()), default=0)
    right = sides["hand"] if "hand" in sides else \
        {name for name, side in sides.items() if len(side) == most and 2 * most > len(sides)}
    for name, r in with_result.items():
        if name not in right:
            r |= {"kind": "wrong", "error": "differs from the derivative by hand" if "hand" in sides else
                  "differs from what other libraries came to"}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-w", "--workloads", metavar="NAME[:SIZE],...", help=f"of {', '.join(WORKLOADS)}")
    p.add_argument("-l", "--libraries", metavar="NAME,...", default=",".join(LIBRARIES))
    p.add_argument("-o", "--output", default=str(HERE / "results.json"), help="a JSON file, or - for none, and no page")
    p.add_argument("--keep", action="store_true", help="keep the file's cells that this run does not measure")
    p.add_argument("--render", action="store_true", help="measure nothing")
    p.add_argument("--runs", type=int, default=2, help="of each cell, one after all others; the lower ratio counts")
    p.add_argument("--budget", type=float, default=1.0, metavar="S", help="seconds of timing in a cell")
    p.add_argument("--limit", type=int, default=60, metavar="S", help="seconds after which a cell is given up")
    p.add_argument("--memory", type=float, default=8.0, metavar="GB", help="that a cell may take")
    p.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    a = p.parse_args()
    path = None if a.output == "-" else Path(a.output)
    results = json.loads(path.read_text()) if path and (a.keep or a.render) and path.exists() else {"cells": {}}
    names = a.libraries.split(",")
    if unknown := [n for n in names if n not in LIBRARIES]:
        sys.exit(f"no library {unknown[0]!r}; there are {', '.join(LIBRARIES)}")
    wrong = set()
    if not a.render:
        results |= {"date": time.strftime("%B %Y"), "python": platform.python_version(), "cores": os.cpu_count(),
                    "machine": platform.machine(), "limit": a.limit}
        measured_now = {}
        for _ in range(a.runs):
            for name, size in chosen(a.workloads):
                key = f"{name}:{size}"
                now = measured_now.setdefault(key, {})
                for library in names:
                    known = now.get(library)
                    if known and known["kind"] in ("absent", "unable", "limit", "memory"):
                        continue
                    now[library] = better(known, measured(library, name, size, a))
                    print(f"{key}  {library:9} {report.line(now[library])}", flush=True)
                row = results["cells"].setdefault(key, {})
                row |= {n: r for n, r in now.items() if r["kind"] != "absent"}
                disagreements(row)
                wrong |= {f"{n} on {key}" for n, r in row.items() if r["kind"] == "wrong"}
                if path:
                    path.write_text(json.dumps(results, indent=1) + "\n")
    print("\n" + report.table(results))
    if path:
        report.write(results)
    if wrong:
        sys.exit(f"wrong derivatives: {', '.join(sorted(wrong))}")


if __name__ == "__main__":
    main()
