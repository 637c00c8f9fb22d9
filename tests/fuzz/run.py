"""Runs random programs from a seed: a failure is shrunk and printed as a script that can be pasted.

    python tests/fuzz/run.py [N] [--seed S]
"""
import argparse
import time

from hypothesis import HealthCheck, given, seed, settings
from random_programs import programs
from test_fuzz import check


def main():
    parser = argparse.ArgumentParser(description="random programs: plain run, forward, reverse, finite differences")
    parser.add_argument("count", type=int, nargs="?", default=500)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"{options.count} programs, seed {options.seed}", flush=True)
    start, lines = time.perf_counter(), []

    @seed(options.seed)
    @settings(max_examples=options.count, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              report_multiple_bugs=False)
    @given(programs())
    def run(program):
        lines.append(program.source.count("\n"))
        check(program)

    run()
    print(f"{len(lines)} programs of {sum(lines) / len(lines):.1f} lines on average: nothing found "
          f"({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
