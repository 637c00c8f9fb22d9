"""asv benchmarks: every gradient stands beside the plain run of the same function, so that ratios can be read off."""
