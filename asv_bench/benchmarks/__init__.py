"""asv benchmarks: a derivative stands beside the plain run of the same function; `track_ratio` times the two in turn.

The workloads of `peers` are benchmarks, too: asv puts only this package on the path, so its parent is added here.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
