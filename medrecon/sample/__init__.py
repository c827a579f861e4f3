"""Loops over noise levels. A sampler sees a prior, never the operator or the data."""
