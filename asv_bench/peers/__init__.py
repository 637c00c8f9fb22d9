"""cyad beside other libraries on the same sources: `python asv_bench/peers/run.py`."""
