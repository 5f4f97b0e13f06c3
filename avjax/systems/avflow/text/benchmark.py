"""Text to tokens: the training step on utterances of LJSpeech's lengths, the search by itself,
and sampling."""

from collections.abc import Iterator

import numpy as np

from avjax.systems import api, benchmarking
from avjax.systems.avflow.text import alignment
from avjax.systems.benchmarking import Case, Compiled, Options, TrainStep

FRAMES_A_SYMBOL = 3.5  # LJSpeech, with blanks between symbols


class Benchmark(benchmarking.Benchmark):
    """`batch` utterances of up to `text` symbols and `frames` frames. What the search takes of the
    step is the second case's time by the first's."""

    options = Options(batch=32, frames=560, text=160, lengths=(861,), steps=10)

    def cases(self, config, system: api.System, options: Options) -> Iterator[Case]:
        """See the base class."""
        system = resized(config, options)
        batch = training_batch(system, options)
        sizes = {"batch": options.batch, "frames": options.frames, "text": options.text}
        size = f"{options.batch} x {options.text} x {options.frames}"
        yield TrainStep(name=f"train step {size}", system=system, batch=batch,
                        describe={"case": "train"} | sizes)
        score = np.random.default_rng(0).standard_normal(
            (options.batch, options.frames, options.text), np.float32)
        yield Compiled(name=f"alignment search {size}", function=alignment.search,
                       describe={"case": "search"} | sizes,
                       arguments=(score, batch["symbols_length"], batch["tokens_length"]))
        for frames in options.lengths:
            yield self.sample(config, frames, options.steps)

    def plan(self, config, system: api.System, options: Options) -> benchmarking.Plan:
        """The training step at the options' sizes."""
        return super().plan(config, resized(config, options), options)

    def sample(self, config, frames: int, steps: int) -> Case:
        """One utterance of so many frames from its symbols, each of the length that fills them."""
        settings = config.system.copy_and_resolve_references()
        settings.euler_steps = steps
        system = api.build(settings)
        symbols = int(frames / FRAMES_A_SYMBOL)

        def speak(params, symbols, keys):
            mean, durations, _ = system.encode(params, symbols)
            lasting = frames / durations.shape[1] * np.ones(durations.shape, np.float32)
            room = np.full((1,), frames, np.int32)
            return system.decode(params, mean, lasting, room, keys, -(-frames // 16) * 16)

        given = {"symbols": ids(system, (1, symbols)),
                 "symbols_length": np.full((1,), symbols, np.int32)}
        return Compiled(name=f"sample {frames} frames",
                        describe={"case": "sample", "frames": frames, "steps": steps},
                        parts={"realtime_factor": frames / system.config.frame_rate},
                        function=speak, arguments=(api.new_params(system), given,
                                                   benchmarking.one_key()))


def ids(system, shape) -> np.ndarray:
    return np.random.default_rng(0).integers(0, system.config.symbols, shape).astype(np.int32)


def resized(config, options: Options) -> api.System:
    """The system with rows of `options`' sizes."""
    settings = config.system.copy_and_resolve_references()
    settings.row_symbols, settings.row_frames = options.text, options.frames
    return api.build(settings)


def training_batch(system, options: Options) -> dict[str, np.ndarray]:
    """Utterances of 60 % to all of a row, one of them all."""
    rng = np.random.default_rng(0)
    symbols = rng.integers(max(1, options.text * 6 // 10), options.text + 1, options.batch)
    symbols[0] = options.text
    frames = symbols * options.frames // options.text
    tokens = rng.standard_normal((options.batch, options.frames, system.config.token_dim),
                                 np.float32)
    real = np.arange(options.frames) < frames[:, None]
    return {"symbols": ids(system, (options.batch, options.text)),
            "symbols_length": symbols.astype(np.int32), "tokens": tokens * real[..., None],
            "tokens_length": frames.astype(np.int32)}
