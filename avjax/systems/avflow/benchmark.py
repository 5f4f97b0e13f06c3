"""AV-Flow: the training step on random segments, and complete sequences sampled."""

from avjax.systems import benchmarking


class Benchmark(benchmarking.Benchmark):
    """The default cases, 20 s and 40 s sampled."""

    options = benchmarking.Options(batch=4, frames=345, lengths=(1723, 3446), steps=8)
