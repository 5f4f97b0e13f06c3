"""Vocoder: the training step on random segments, and mel made into sound as `--vocoder` does."""

import functools
from collections.abc import Iterator

import jax
import numpy as np

from avjax.codecs import bigvgan_network
from avjax.signal import mel
from avjax.systems import api, benchmarking
from avjax.systems.benchmarking import Case, Driven, Options, Work
from avjax.systems.vocoder import published


class Benchmark(benchmarking.Benchmark):
    """A training step of `batch` segments of `frames` (none where `batch` is 0), then the sound of
    each of `lengths` mel frames, with the weights of a fresh network."""

    options = Options(batch=4, frames=32, lengths=(861,))

    def cases(self, config, system: api.System, options: Options) -> Iterator[Case]:
        """See the base class."""
        if options.batch:
            yield from super().cases(config, system, Options(batch=options.batch,
                                                             frames=options.frames))
        vocoder = published.vocoder(config.system, api.new_params(system))
        for frames in options.lengths:
            yield sounding(vocoder, frames)


def sounding(vocoder, frames: int) -> Case:
    """`frames` of random mel made into sound, halos and all; FLOPs are those of the network without
    them, by plain convolutions."""
    seconds = frames * vocoder.hop / vocoder.sample_rate
    rng = np.random.default_rng(0)
    log_mel_TM = rng.uniform(mel.FLOOR, 1, (frames, vocoder.config.bands)).astype(np.float32)

    def make():
        def run():
            vocoder.waveform(log_mel_TM, vocoder.mel)

        run()
        return run

    network = functools.partial(bigvgan_network.generator, vocoder.config)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), vocoder.params)
    return Driven(name=f"vocode {frames} frames", make=make,
                  describe={"case": "vocode", "frames": frames},
                  work=(Work(network, (shapes, jax.ShapeDtypeStruct((1, *log_mel_TM.shape),
                                                                    np.float32))),),
                  parts={"realtime_factor": seconds})
