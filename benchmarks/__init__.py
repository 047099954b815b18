"""Measurements side by side with other implementations; every module runs as `python -m benchmarks.NAME`."""
