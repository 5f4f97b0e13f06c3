"""Talker-T2AV: the training step on full rows, a whole utterance from text at batch 1, and how soon
its first patch comes."""

import time
from collections.abc import Iterator

import jax
import numpy as np

from avjax.systems import api
from avjax.systems.talker import sampler
from avjax.systems.talker.streaming import StreamingSampler
from avjax.training.flops import count_flops
from launch.benchmarks.common import Case, Options, compiled_case, train_case

DEFAULTS = Options(batch=4, frames=200, text=30, lengths=(80,), steps=10)
TASK = "t2av"


def cases(config, system, options: Options) -> Iterator[Case]:
    """Training rows filled with utterances of `frames` frames and `text` prompt tokens; generation
    of each of `lengths`."""
    yield training(config, system, options)
    for frames in options.lengths:
        yield from generation(config, frames, options)


def training(config, system, options: Options) -> Case:
    """The step on `batch` rows, each with as many equal utterances as fit."""
    rng = np.random.default_rng(0)
    lengths = {"tokens": options.text, "audio": options.frames, "motion": options.frames}
    cost = system.rows.cost(lengths)
    count = max(1, min(room // cost[name] for name, room in system.rows.capacity.items()))
    rows = [system.rows.build([random_example(system, lengths, rng) for _ in range(count)], rng)
            for _ in range(options.batch)]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return train_case(config, system, batch, f"train step {options.batch} x {count} x "
                                             f"{options.frames}",
                      {"case": "train", "batch": options.batch * count, "frames": options.frames,
                       "text": options.text})


def random_example(system, lengths: dict[str, int], rng: np.random.Generator) -> dict:
    """An example as `example_spec` wants it, of these lengths."""
    example = {}
    for name, spec in system.example_spec.items():
        shape = [lengths.get(name, 0) if isinstance(d, str) else d for d in spec.shape[1:]]
        example[name] = rng.integers(2, 100,
                                     shape).astype(spec.dtype) if np.dtype(spec.dtype).kind == "i" \
            else rng.standard_normal(shape, np.float32)
    return example


def generation(config, frames: int, options: Options) -> Iterator[Case]:
    """One utterance of exactly `frames` frames, text to speech and motion; then its first patch,
    streamed."""
    patch, rate = config.system.patch, config.system.frame_rate
    patches = frames // patch
    settings = config.system.copy_and_resolve_references()
    # the stop head may not end it
    settings.steps, settings.min_patches = options.steps, patches + settings.stop_streak
    system = api.build(settings)
    params = jax.jit(system.init)(jax.random.key(0))
    arguments = (params, conditions_of(system, patches * patch, options.text),
                 jax.random.split(jax.random.key(1), 1))
    describe = {"patches": patches, "steps": options.steps, "guidance": settings.guidance,
                "text": options.text}
    more = slot_flops(system, *arguments) * (patches + sampler.lag(system, TASK) - 1)
    whole = compiled_case(system.generate, arguments, f"generate {patches} patches",
                          {"case": "generate"} | describe, more,
                          parts={"ms_a_patch": patches / 1000, "realtime_factor": patches * patch
                                 / rate})
    once = whole.flops - more
    yield whole
    yield first_patch(system, arguments, {"case": "first_patch"} | describe, once)


def slot_flops(system, params, conditions, keys) -> int:
    """FLOPs of one turn of the sampler's loop, which `count_flops` counts once: how often it turns
    is decided by data."""
    ready, given, state = jax.eval_shape(
        lambda *args: sampler.start(system, *args, TASK,
                                    sampler.draw(system, keys,
                                                 sampler.patches(system, conditions, TASK))),
        params, conditions)
    return count_flops(lambda ready, given,
                       state: sampler.advance(system, ready, given, state, TASK), ready, given,
                       state)


def first_patch(system, arguments, describe: dict, flops: int) -> Case:
    """From the prompt to the first patch of speech and motion, by the streaming sampler."""
    params, conditions, keys = arguments
    streaming = StreamingSampler(system, params, TASK)

    def run():
        start, chunks = time.perf_counter(), streaming.stream(conditions, keys)
        while not all(len(frames[0]) for frames in next(chunks).values()):
            pass
        return time.perf_counter() - start

    return Case("first patch, streamed", describe, run, flops, run())


def conditions_of(system, frames: int, text: int) -> dict[str, np.ndarray]:
    """A prompt of `text` tokens and nothing else given, room for `frames` frames."""
    shapes = {name: spec.resolve(batch=1, time=frames, tokens=text) for name,
              spec in system.conditions_spec.items()}
    rng = np.random.default_rng(0)
    conditions = {name: np.zeros(s.shape, s.dtype) for name, s in shapes.items()}
    conditions["prompt"] += rng.integers(2, 100, conditions["prompt"].shape).astype(np.int32)
    conditions["prompt_length"] += text
    for name in ("speaker", "first_motion"):
        conditions[name] += rng.standard_normal(conditions[name].shape).astype(np.float32)
    return conditions
