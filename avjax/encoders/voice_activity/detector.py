"""A voice activity as a user names it, and what it finds."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from avjax.encoders.voice_activity import energy, segments, silero
from avjax.encoders.voice_activity.segments import CHUNK, RATE, Options
from avjax.errors import UserError
from avjax.signal.resample import resampled
from avjax.signal.runs import intervals

KINDS = ("energy", "neural")
HELP = ("energy, or neural (pip install --no-deps silero-vad), and options, e.g. "
        "neural:threshold=0.6,min_silence_ms=300")
BLEED_DB = 15.0  # what is so much quieter than in another channel is that one's voice (ours)
_FRAME = 0.02  # seconds of the frames in which channels are compared, smoothed as energy.py does
_SHORTEST = 5  # frames that remain of a stretch, or it is dropped


@dataclasses.dataclass(frozen=True)
class Detector:
    """Finds speech in channels. `weights`: of the neural kind; None: the installed package's."""

    kind: str = "energy"
    options: Options = Options()
    weights: str | None = None

    @classmethod
    def parse(cls, text: str, weights: str | None = None, *,
              where: str = "--activity") -> "Detector":
        """Of "kind" or "kind:option=value,...". UserError: no such kind, option or value, and for
        the neural kind weights that are not there."""
        kind, _, given = text.partition(":")
        if kind not in KINDS:
            raise UserError("unknown voice activity", where=where, expected=" or ".join(KINDS),
                            found=repr(kind))
        fields = {f.name: f.default for f in dataclasses.fields(Options)}
        values = {}
        for item in filter(None, given.split(",")):
            name, _, value = (part.strip() for part in item.partition("="))
            try:
                if name == "longest_silence":
                    values[name] = {"true": True, "false": False}[value.lower()]
                else:
                    values[name] = float(value)
                highest = 1 if name.endswith("threshold") else math.inf
                if name not in fields or not 0 <= values[name] <= highest:  # which NaN is not
                    raise ValueError
            except (ValueError, KeyError):
                raise UserError("no such option of the voice activity", where=where,
                                expected="threshold and neg_threshold from 0 to 1, longest_silence "
                                "true or false, and from 0 on " + ", ".join(
                                    n for n in fields if n.endswith(("_ms", "_s"))),
                                found=item) from None
        found = cls(kind, Options(**values), weights)
        found.check()
        return found

    @classmethod
    def of_recipe(cls, recipe: Mapping) -> "Detector":
        """The one whose `recipe` was kept, with the installed weights: compare its recipe."""
        names = {f.name for f in dataclasses.fields(Options)}
        return cls(recipe["kind"], Options(**{n: v for n, v in recipe.items() if n in names}))

    def check(self) -> None:
        """Raises UserError now for weights that are missing or another network's."""
        if self.kind == "neural":
            silero.load(self.weights)

    @property
    def recipe(self) -> dict:
        """All that the result depends on."""
        own = {"kind": self.kind} | {
            name: value if isinstance(value, bool) else float(value)
            for name, value in dataclasses.asdict(self.options).items()
            if value is not None and value != math.inf}
        if self.kind == "neural":
            return own | {"network": "silero-vad 16 kHz", "weights": silero.load(self.weights)[1]}
        return own | energy.RECIPE

    def __call__(self, channels: Sequence[np.ndarray], rate: float) -> list[np.ndarray]:
        """(K, 2) float64 seconds of speech in each channel; channels (N,) float in [-1, 1] or
        int16, of any lengths. UserError: sound that is not finite."""
        floats = [_to_float(x) for x in channels]
        if self.kind == "energy":
            chances = [energy.probabilities(x, rate) for x in floats]
        else:
            chances = self._neural([resampled(x, rate, RATE) for x in floats])
        return [segments.timestamps(p, round(len(x) * RATE / rate), self.options) / RATE
                for p, x in zip(chances, floats, strict=True)]

    def _neural(self, channels: list[np.ndarray]) -> list[np.ndarray]:
        """Channels at 16 kHz together, the shorter ones filled with zeros at the end, which changes
        nothing before it."""
        longest = max(map(len, channels), default=0)
        together = np.stack([np.pad(x, (0, longest - len(x))) for x in channels])
        found = silero.probabilities(together, self.weights)
        return [p[:-(-len(x) // CHUNK)] for p, x in zip(found, channels, strict=True)]

    def separated(self, channels: Sequence[np.ndarray], rate: float) -> list[np.ndarray]:
        """Float32 copies of the channels of one conversation, silent where their own speaker does
        not speak: outside the speech of the channel, and where another is BLEED_DB louder, which is
        another's voice in this microphone."""
        floats = [_to_float(x) for x in channels]
        own = own_speech(self(floats, rate), floats, rate)
        out = []
        for x, speech_K2 in zip(floats, own, strict=True):
            quiet = np.zeros(len(x), np.float32)
            for start, end in np.round(speech_K2 * rate).astype(int):
                quiet[start:end] = x[start:end]
            out.append(quiet)
        return out


def speech(samples_N: np.ndarray, rate: float, *, kind: str = "energy",
           weights: str | None = None) -> np.ndarray:
    """(K, 2) float64 seconds in which somebody speaks.

    Args:
      samples_N: one channel, float in [-1, 1] or int16; of any length.
      kind: "energy" or "neural", with options if need be (Detector.parse).
      weights: of the neural kind; None: the installed package's.

    Raises UserError: no such kind or option, no weights.
    """
    return Detector.parse(kind, weights, where="kind")([samples_N], rate)[0]


def own_speech(found: Sequence[np.ndarray], channels: Sequence[np.ndarray], rate: float,
               bleed_db: float = BLEED_DB) -> list[np.ndarray]:
    """Speech (K, 2) of each channel without what another channel is `bleed_db` louder in: that has
    leaked into the microphone. Channels of one conversation, recorded with about the same gain."""
    if len(channels) < 2:
        return list(found)
    hop = round(_FRAME * rate)
    step, frames = hop / rate, -(-max(map(len, channels)) // hop)
    power_CT = np.stack([energy.smooth(np.square(np.pad(x, (0, frames * hop - len(x))),
                                        dtype=np.float64).reshape(frames, hop).mean(1))
                         for x in channels])
    out = []
    for c, speech_K2 in enumerate(found):
        leaked_T = np.delete(power_CT, c, 0).max(0) > power_CT[c] * 10 ** (bleed_db / 10)
        at = (np.arange(frames) + 0.5) * step
        speaks_T = segments.inside(speech_K2, at)
        if (speaks_T & leaked_T).any():
            pieces_K2 = intervals(speaks_T & ~leaked_T)
            pieces_K2 = pieces_K2[np.diff(pieces_K2)[:, 0] >= _SHORTEST] * step
            out.append(np.minimum(pieces_K2, len(channels[c]) / rate))
        else:
            out.append(speech_K2)
    return out


def _to_float(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x)
    if not np.isfinite(x).all():  # it would silence all that comes after it
        raise UserError("sound is not finite", where="the voice activity", expected="samples",
                        found="NaN or infinity", hint="convert the recording again")
    return x.astype(np.float32) / 32768 if x.dtype == np.int16 else x.astype(np.float32, copy=False)
