"""TAVID's visual System: the training step of its stage, and sampling; --plan counts the full size
without running it.

The published comparison is stage temporal with 4 rows of 16 frames at 512 x 512 (latents 64 x 64),
batch and frames by --batch and --segment.
"""

from collections.abc import Iterator

import jax
import numpy as np

from avjax.errors import UserError
from avjax.systems import api
from avjax.systems.tavid.visual.config import UNITS_A_FRAME
from avjax.training.flops import count_flops
from avjax.training.memory import bytes_of, peak_bytes
from launch.benchmarks.common import (
    Case,
    Options,
    compiled_case,
    plan_step,
    random_arrays,
    train_case,
)

DEFAULTS = Options(batch=4, frames=16, lengths=(64,), steps=0)
VISUAL = "tavid.visual"


def cases(config, system, options: Options) -> Iterator[Case]:
    """The training step, then every speaker's video for one dialogue of each length."""
    system = resized(config, options)
    shapes = api.example_batch(system, batch=options.batch, time=0)
    describe = {"case": "train", "batch": options.batch, "frames": options.frames,
                "stage": config.system.stage}
    yield train_case(config, system, training_batch(system, shapes),
                     f"train step {options.batch} x {options.frames}", describe)
    for frames in options.lengths:
        yield sample_case(config, frames, options.steps)


def plan(config, system, options: Options) -> list[dict]:
    """FLOPs and bytes of the training step and of sampling one clip of all speakers, from
    shapes."""
    system = resized(config, options)
    rows = plan_step(config, system, api.example_batch(system, batch=options.batch, time=0))
    c = system.config
    conditions = {name: spec.resolve(batch=1, units=UNITS_A_FRAME * c.clip) for name,
                  spec in system.conditions_spec.items()}
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    arguments = (jax.eval_shape(system.init, jax.random.key(0)), conditions, keys)
    flops = count_flops(system.generate, *arguments) / (c.clip * c.mapper.streams)
    return [*rows, {"name": "sampling: a frame", "value": flops / 1e12, "unit": "TFLOP"},
            {"name": "sampling: all bytes", "unit": "GB",
             "value": (bytes_of(arguments[0]) + peak_bytes(system.generate, *arguments)) / 1e9}]


def resized(config, options: Options):
    """The system with rows of `options.frames` frames."""
    if config.system.name != VISUAL:
        raise UserError("no benchmark for this system", where="config.system.name", expected=VISUAL,
                        found=repr(config.system.name))
    settings = config.system.copy_and_resolve_references()
    settings.frames = options.frames
    return api.build(settings)


def training_batch(system, shapes) -> dict[str, np.ndarray]:
    """Random latents, units of the codebook, frames within the units' window."""
    batch, rng, c = random_arrays(shapes), np.random.default_rng(0), system.config
    if "units" in batch:
        batch["units"] = rng.integers(0, c.mapper.num_units, batch["units"].shape, np.int32)
        batch["units_length"] = np.full(batch["units_length"].shape, batch["units"].shape[1],
                                        np.int32)
        first = batch["units"].shape[1] // UNITS_A_FRAME // 2 - c.frames // 2
        batch["frame"] = np.broadcast_to(np.arange(first, first + c.frames, dtype=np.int32),
                                         batch["frame"].shape)
    return batch


def sample_case(config, frames: int, steps: int) -> Case:
    """All speakers' `frames` frames of one dialogue; `steps` 0: the config's."""
    settings = config.system.copy_and_resolve_references()
    settings.steps = steps or settings.steps
    system = api.build(settings)
    params = jax.jit(system.init)(jax.random.key(0))
    conditions = random_arrays({name: spec.resolve(batch=1, units=UNITS_A_FRAME * frames)
                                for name, spec in system.conditions_spec.items()})
    conditions["units"] = np.zeros_like(conditions["units"])
    conditions["units_length"] = np.full((1,), UNITS_A_FRAME * frames, np.int32)
    speakers = settings.mapper.streams
    describe = {"case": "sample", "frames": frames, "speakers": speakers, "steps": settings.steps}
    return compiled_case(system.generate,
                         (params, conditions, jax.random.split(jax.random.key(1), 1)),
                         f"sample {frames} frames x {speakers}", describe,
                         parts={"ms_a_frame": frames * speakers / 1000})
