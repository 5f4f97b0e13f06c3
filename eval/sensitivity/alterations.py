"""Ways of making a recording worse, each in levels that rise.

Motion is altered in its streams. Sound is altered in the recording itself, whose mel is then taken
anew, so that it comes through the same codec as the truth's; it needs streams with mel and the
clips at hand. All is ours by choice, and every level depends on the example's id alone.
Suffixes: N samples, T frames.
"""

import dataclasses
import io
import zlib
from collections.abc import Callable

import av
import numpy as np

from avjax.signal import mel
from eval.data.clips import FPS, Signals, fit

Streams = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Alteration:
    """One way.

    Attributes:
      unit: of the levels.
      levels: from slight to severe.
      make: (benchmark, split, index, level) -> Signals; None where it is not possible.
    """

    name: str
    unit: str
    levels: tuple[float, ...]
    make: Callable[..., Signals | None]


def _motion(change: Callable[..., np.ndarray]) -> Callable[..., Signals | None]:
    """Of `change`: (stream (T, width), its rate, level, random numbers, another clip's stream of as
    many frames) -> stream. The sound stays the truth's."""
    def make(benchmark, split: str, index: int, level: float) -> Signals | None:
        truth = benchmark.truth(split, index)
        other = benchmark.truth(split, benchmark.other(split, index))
        if not (truth.has_motion and other.has_motion):
            return None
        random = _random(benchmark, split, index)
        streams = {name: change(x, benchmark.rates[name], level, random,
                                fit(other.streams[name], len(x)))
                   for name, x in truth.streams.items() if name not in heard(benchmark, truth)}
        return Signals(benchmark, truth.streams | streams, speaker=truth.speaker,
                       like=truth if truth.has_audio else None)
    return make


def heard(benchmark, truth: Signals) -> set[str]:
    """Names of the streams that are sound alone."""
    return {name for name, x in truth.streams.items()
            if benchmark.decoder.has_audio({name: x})
            and not benchmark.decoder.has_motion({name: x})}


def _sound(change: Callable[..., np.ndarray]) -> Callable[..., Signals | None]:
    """Of `change`: (samples (N,), Hz, level, random numbers, another clip's samples (N,)) ->
    samples. Motion stays the truth's."""
    def make(benchmark, split: str, index: int, level: float) -> Signals | None:
        truth = benchmark.truth(split, index)
        waves = [benchmark.clip_audio(split, i) for i in (index, benchmark.other(split, index))]
        if "mel" not in truth.streams or not benchmark.full or any(w is None for w in waves):
            return None
        wave_N, other_N = (_floats(w) for w in waves)
        altered_N = change(wave_N, benchmark.sample_rate, level, _random(benchmark, split, index),
                           fit(other_N, len(wave_N)))
        own_TM = mel.of_speech(altered_N.astype(np.float32),
                               benchmark.decoder.recipes.get("mel", {}).get("level"))
        frames = len(truth.streams["mel"])
        own_TM = np.pad(own_TM, ((0, max(frames - len(own_TM), 0)), (0, 0)), "edge")[:frames]
        return Signals(benchmark, truth.streams | {"mel": own_TM}, speaker=truth.speaker)
    return make


def _random(benchmark, split: str, index: int) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(benchmark.source(split).ids[index].encode()))


def _floats(wave_N: np.ndarray) -> np.ndarray:
    return wave_N / 32768 if wave_N.dtype == np.int16 else np.asarray(wave_N, np.float64)


def late(x_TC, rate, frames, random, other_TC):
    """By frames of 30 Hz; the first one is held."""
    del random, other_TC
    by = min(round(frames / FPS * rate), len(x_TC))
    return np.concatenate([np.repeat(x_TC[:1], by, 0), x_TC[:len(x_TC) - by]])


def shaken(x_TC, rate, share, random, other_TC):
    """White noise of a share of each number's deviation."""
    del rate, other_TC
    return (x_TC + share * x_TC.std(0) * random.standard_normal(x_TC.shape)).astype(x_TC.dtype)


def frozen(x_TC, rate, share, random, other_TC):
    """The last share of the frames is the one before them."""
    del rate, random, other_TC
    kept = max(1, round(len(x_TC) * (1 - share)))
    return np.concatenate([x_TC[:kept], np.repeat(x_TC[kept - 1:kept], len(x_TC) - kept, 0)])


def replaced(x_TC, rate, share, random, other_TC):
    """The first share of the time is another's; samples or frames."""
    del rate, random
    count = round(len(x_TC) * share)
    return np.concatenate([other_TC[:count], x_TC[count:]])


def noisy(wave_N, rate, below_db, random, other_N):
    """White noise; levels are decibels of it over -40 of the sound's power."""
    del rate, other_N
    power = np.mean(np.square(wave_N)) * 10 ** ((below_db - 40) / 10)
    return wave_N + np.sqrt(power) * random.standard_normal(len(wave_N))


def coded(wave_N, rate, saved, random, other_N):
    """By MP3 of (64 - saved) kbit/s and back, moved to where it fits best."""
    del random, other_N
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as out:
        stream = out.add_stream("libmp3lame", rate=rate, layout="mono")
        stream.bit_rate = int(1000 * (64 - saved))
        frame = av.AudioFrame.from_ndarray(wave_N.astype(np.float32)[None], "fltp", "mono")
        frame.sample_rate = rate
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as read:
        heard_N = np.concatenate([f.to_ndarray()[0] for f in read.decode(audio=0)])
    return _fitted(heard_N.astype(np.float64), wave_N)


def _fitted(heard_N, wave_N, most: int = 4096):
    """(N,) of what was heard, moved by up to `most` samples to where it is most like the wave."""
    from scipy.signal import correlate

    padded_N = np.pad(heard_N, most)[:len(wave_N) + 2 * most]
    at = int(np.argmax(correlate(padded_N, wave_N, "valid", "fft")))
    found_N = padded_N[at:at + len(wave_N)]
    return np.pad(found_N, (0, len(wave_N) - len(found_N)))


SHARES = (0.25, 0.5, 0.75, 1.0)
ALL = (
    Alteration("motion late", "frames of 30 Hz", (1, 2, 4, 8, 16), _motion(late)),
    Alteration("motion noise", "of the deviation", (0.05, 0.1, 0.2, 0.4, 0.8), _motion(shaken)),
    Alteration("motion frozen", "of the time", SHARES, _motion(frozen)),
    Alteration("another's motion", "of the time", SHARES, _motion(replaced)),
    Alteration("sound noise", "dB over -40 dB", (0, 10, 20, 30, 40), _sound(noisy)),
    Alteration("sound coded", "kbit/s below 64 of MP3", (0, 16, 32, 48, 56), _sound(coded)),
    Alteration("another's sound", "of the time", SHARES, _sound(replaced)),
)
