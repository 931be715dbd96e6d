"""How far Aura's parts are from their limits: `python -m benchmarks`, or `make bench`.

A figure is a ratio: what Aura takes, to what the libraries underneath take for the unavoidable
part of the same work, measured by turns in the same run. See docs/benchmarks.md.
"""
