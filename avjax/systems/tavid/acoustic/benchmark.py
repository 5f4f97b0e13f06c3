"""TAVID's acoustic System: the training step on random mel, and mel of units, from noise."""

from collections.abc import Iterator

import numpy as np

from avjax.systems import api, benchmarking
from avjax.systems.benchmarking import Case, Compiled, Options, TrainStep, random_arrays
from avjax.systems.tavid.acoustic.expand import UNIT_RATE, mel_frames


class Benchmark(benchmarking.Benchmark):
    """A training step on rows of the config's own length (batch 0: none), then all speakers' mel of
    each of `lengths` units."""

    options = Options(batch=4, lengths=(500,), steps=0)  # 0 steps: the config's

    def cases(self, config, system: api.System, options: Options) -> Iterator[Case]:
        """See the base class."""
        if options.batch:
            yield TrainStep(name=f"train step {options.batch} x {system.config.row_frames}",
                            system=system, describe={"case": "train", "batch": options.batch,
                                                     "frames": system.config.row_frames},
                            batch=with_units(system, random_arrays(
                                api.example_batch(system, batch=options.batch, time=0))))
        for units in options.lengths:
            yield self.sample(config, units, options.steps)

    def sample(self, config, frames: int, steps: int) -> Case:
        """All speakers' mel of one dialogue of `frames` units, with no frame given; `steps` 0: the
        config's."""
        settings = config.system.copy_and_resolve_references()
        settings.steps = steps or settings.steps
        system = api.build(settings)
        conditions = with_units(system, random_arrays(
            {name: spec.resolve(batch=1, units=frames, prompt=0)
             for name, spec in system.conditions_spec.items()}))
        conditions["units_length"] = np.full((1,), frames, np.int32)
        if "prompt" in conditions:
            conditions |= {"prompt": None, "prompt_length": np.zeros((1,), np.int32)}
        speakers, seconds = settings.num_speakers, frames / UNIT_RATE
        return Compiled(name=f"sample {frames} units x {speakers}", function=system.generate,
                        describe={"case": "sample", "units": frames, "frames": mel_frames(frames),
                                  "speakers": speakers, "steps": settings.steps,
                                  "guidance": settings.guidance_units - 1},
                        parts={"realtime_factor": seconds * speakers},
                        arguments=(benchmarking.drawn(system), conditions, benchmarking.one_key()))


def with_units(system, arrays):
    """Random units of the codebook in place of other numbers."""
    rng = np.random.default_rng(0)
    arrays["units"] = rng.integers(0, system.config.num_units, arrays["units"].shape, np.int32)
    return arrays
