"""The head VAE: the training step on random segments, and complete sequences decoded."""

from avjax.systems import benchmarking


class Benchmark(benchmarking.Benchmark):
    """The default cases, 1723 and 3446 frames decoded."""

    options = benchmarking.Options(batch=4, frames=345, lengths=(1723, 3446), steps=8)
