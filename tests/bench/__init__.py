"""Benchmarks: each number beside its reference, measured in the same run."""
