"""TAVID's visual System: the training step of its stage, and sampling; --plan counts the full size
without running it.

The published comparison is stage temporal with 4 rows of 16 frames at 512 x 512 (latents 64 x 64),
batch and frames by --batch and --segment.
"""

from collections.abc import Iterator

import jax
import numpy as np

from avjax.systems import api, benchmarking
from avjax.systems.benchmarking import Case, Compiled, Options, Plan, TrainStep, Work, random_arrays
from avjax.systems.tavid.visual.config import UNITS_A_FRAME


class Benchmark(benchmarking.Benchmark):
    """The training step (batch 0: none), then every speaker's video for one dialogue of each
    length."""

    options = Options(batch=4, frames=16, lengths=(64,), steps=0)  # 0 steps: the config's

    def cases(self, config, system: api.System, options: Options) -> Iterator[Case]:
        """See the base class."""
        if options.batch:
            system = resized(config, options)
            shapes = api.example_batch(system, batch=options.batch, time=0)
            yield TrainStep(name=f"train step {options.batch} x {options.frames}", system=system,
                            describe={"case": "train", "batch": options.batch,
                                      "frames": options.frames, "stage": config.system.stage},
                            batch=training_batch(system, shapes))
        for frames in options.lengths:
            yield self.sample(config, frames, options.steps)

    def plan(self, config, system: api.System, options: Options) -> Plan:
        """The training step, and sampling one clip of all speakers."""
        system = resized(config, options)
        c = system.config
        conditions = {name: spec.resolve(batch=1, units=UNITS_A_FRAME * c.clip, time=c.clip)
                      for name, spec in system.conditions_spec.items()}
        params = api.abstract_params(system)
        arguments = (params, conditions, jax.eval_shape(benchmarking.one_key))
        clip = Work(system.generate, arguments)
        return Plan(system, api.example_batch(system, batch=options.batch, time=0),
                    {"sampling": (clip, c.clip * c.mapper.streams)})

    def sample(self, config, frames: int, steps: int) -> Case:
        """All speakers' `frames` frames of one dialogue; `steps` 0: the config's."""
        settings = config.system.copy_and_resolve_references()
        settings.steps = steps or settings.steps
        system = api.build(settings)
        conditions = random_arrays({name: spec.resolve(batch=1, units=UNITS_A_FRAME * frames,
                                                       time=frames)
                                    for name, spec in system.conditions_spec.items()})
        driver = settings.driver
        if driver == "units":
            conditions["units"] = np.zeros_like(conditions["units"])
        conditions[f"{driver}_length"] = np.full((1,), conditions[driver].shape[1], np.int32)
        speakers = settings.mapper.streams
        return Compiled(name=f"sample {frames} frames x {speakers}",
                        describe={"case": "sample", "frames": frames, "speakers": speakers,
                                  "steps": settings.steps},
                        parts={"ms_a_frame": frames * speakers / 1000}, function=system.generate,
                        arguments=(benchmarking.drawn(system), conditions, benchmarking.one_key()))


def resized(config, options: Options) -> api.System:
    """The system with rows of `options.frames` frames."""
    settings = config.system.copy_and_resolve_references()
    settings.frames = options.frames
    return api.build(settings)


def training_batch(system, shapes) -> dict[str, np.ndarray]:
    """Random latents, units of the codebook, frames within the units' window."""
    batch = random_arrays(shapes)
    rng = np.random.default_rng(0)
    c = system.config
    if "units" in batch:
        batch["units"] = rng.integers(0, c.mapper.num_units, batch["units"].shape, np.int32)
        batch["units_length"] = np.full(batch["units_length"].shape, batch["units"].shape[1],
                                        np.int32)
        first = batch["units"].shape[1] // UNITS_A_FRAME // 2 - c.frames // 2
        batch["frame"] = np.broadcast_to(np.arange(first, first + c.frames, dtype=np.int32),
                                         batch["frame"].shape)
    return batch
