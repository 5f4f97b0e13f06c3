"""Talker-T2AV: the training step on full rows, a complete utterance from text at batch 1, and how
soon its first patch comes."""

import time
from collections.abc import Iterator

import jax
import numpy as np

from avjax.systems import api, benchmarking
from avjax.systems.benchmarking import Case, Compiled, Driven, Options, TrainStep, Work
from avjax.systems.talker import sampler
from avjax.systems.talker.streaming import StreamingSampler

TASK = "t2av"


class Benchmark(benchmarking.Benchmark):
    """Training rows filled with utterances of `frames` frames and `text` prompt tokens; generation
    of each of `lengths`."""

    options = Options(batch=4, frames=200, text=30, lengths=(80,), steps=10)

    def cases(self, config, system: api.System, options: Options) -> Iterator[Case]:
        """See the base class."""
        yield self.training(system, options)
        for frames in options.lengths:
            yield from self.generation(config, frames, options)

    def training(self, system: api.System, options: Options) -> TrainStep:
        """The step on `batch` rows, each with as many equal utterances as fit."""
        rng = np.random.default_rng(0)
        lengths = {"tokens": options.text, "audio": options.frames, "motion": options.frames}
        cost = system.rows.cost(lengths)
        count = max(1, min(room // cost[name] for name, room in system.rows.capacity.items()))
        rows = [system.rows.build([random_example(system, lengths, rng) for _ in range(count)], rng)
                for _ in range(options.batch)]
        return TrainStep(name=f"train step {options.batch} x {count} x {options.frames}",
                         system=system, batch={n: np.stack([row[n] for row in rows])
                                               for n in rows[0]},
                         describe={"case": "train", "batch": options.batch * count,
                                   "frames": options.frames, "text": options.text})

    def generation(self, config, frames: int, options: Options) -> Iterator[Case]:
        """One utterance of exactly `frames` frames, text to speech and motion; then its first
        patch, streamed."""
        patch, rate = config.system.patch, config.system.frame_rate
        patches = frames // patch
        settings = config.system.copy_and_resolve_references()
        # the stop head may not end it
        settings.steps = options.steps
        settings.min_patches = patches + settings.stop_streak
        system = api.build(settings)
        arguments = (api.new_params(system),
                     conditions_of(system, patches * patch, options.text), benchmarking.one_key())
        describe = {"patches": patches, "steps": options.steps, "guidance": settings.guidance,
                    "text": options.text}
        loops = (slot(system, *arguments, patches + sampler.lag(system, TASK) - 1),)
        yield Compiled(name=f"generate {patches} patches", describe={"case": "generate"} | describe,
                       parts={"ms_a_patch": patches / 1000,
                              "realtime_factor": patches * patch / rate},
                       function=system.generate, arguments=arguments, loops=loops)
        yield Driven(name="first patch, streamed", describe={"case": "first_patch"} | describe,
                     make=lambda: first_patch(system, *arguments),
                     work=(Work(system.generate, arguments),))


def random_example(system, lengths: dict[str, int], rng: np.random.Generator) -> dict:
    """An example as `example_spec` wants it, of these lengths."""
    example = {}
    for name, spec in system.example_spec.items():
        shape = [lengths.get(name, 0) if isinstance(d, str) else d for d in spec.shape[1:]]
        whole = np.dtype(spec.dtype).kind == "i"
        example[name] = (rng.integers(2, 100, shape).astype(spec.dtype) if whole
                         else rng.standard_normal(shape, np.float32))
    return example


def slot(system, params, conditions, keys, times: int) -> Work:
    """One turn of the sampler's loop, `times` over; counted once by itself, since data decide how
    often it turns."""
    def start(params, conditions):
        noise = sampler.draw(system, keys, sampler.patches(system, conditions, TASK))
        return sampler.start(system, params, conditions, TASK, noise)

    def advance(ready, given, state):
        return sampler.advance(system, ready, given, state, TASK)

    return Work(advance, jax.eval_shape(start, params, conditions), times)


def first_patch(system, params, conditions, keys):
    """A function that streams from the prompt to the first patch of speech and motion -> seconds;
    called once here, so that it is compiled."""
    streaming = StreamingSampler(system, params, TASK)

    def run() -> float:
        start = time.perf_counter()
        chunks = streaming.stream(conditions, keys)
        while not all(len(frames[0]) for frames in next(chunks).values()):
            pass
        return time.perf_counter() - start

    run()
    return run


def conditions_of(system, frames: int, text: int) -> dict[str, np.ndarray]:
    """A prompt of `text` tokens and nothing else given, room for `frames` frames."""
    shapes = {name: spec.resolve(batch=1, time=frames, tokens=text)
              for name, spec in system.conditions_spec.items()}
    rng = np.random.default_rng(0)
    conditions = {name: np.zeros(s.shape, s.dtype) for name, s in shapes.items()}
    conditions["prompt"] += rng.integers(2, 100, conditions["prompt"].shape).astype(np.int32)
    conditions["prompt_length"] += text
    for name in ("speaker", "first_motion"):
        conditions[name] += rng.standard_normal(conditions[name].shape).astype(np.float32)
    return conditions
