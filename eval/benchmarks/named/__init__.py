"""Benchmarks by name, a declaration each: `avjax evaluate --benchmark=NAME`."""
