"""Data consistency steps: a prior wrapped around a prior, holding the likelihood."""
