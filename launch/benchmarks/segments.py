"""Systems that train on random segments and sample whole sequences: AV-Flow, the head VAE."""

from collections.abc import Iterator

import jax

from avjax.systems import api
from launch.benchmarks.common import Case, Options, compiled_case, random_arrays, train_case

DEFAULTS = Options(batch=4, frames=345, lengths=(1723, 3446), steps=8)


def cases(config, system, options: Options) -> Iterator[Case]:
    """The training step, then `generate` for one example of each length."""
    batch = random_arrays(api.example_batch(system, batch=options.batch, time=options.frames))
    yield train_case(config, system, batch, f"train step {options.batch} x {options.frames}",
                     {"case": "train", "batch": options.batch, "frames": options.frames})
    for frames in options.lengths:
        yield sample_case(config, frames, options.steps)


def sample_case(config, frames: int, steps: int) -> Case:
    """`generate` for one example."""
    settings = config.system.copy_and_resolve_references()
    if "euler_steps" in settings:
        settings.euler_steps = steps
    system = api.build(settings)
    params = jax.jit(system.init)(jax.random.key(0))
    conditions = random_arrays({name: spec.resolve(batch=1, time=frames)
                                for name, spec in system.conditions_spec.items()})
    return compiled_case(system.generate,
                         (params, conditions, jax.random.split(jax.random.key(1), 1)),
                         f"sample {frames} frames",
                         {"case": "sample", "frames": frames, "steps": steps})
