"""Speech at 24 kHz <-> 32 numbers a frame at 25 Hz: the slot of Talker's audio codec, and its
weightless stand-in.

Latent frame j covers samples [960 j, 960 (j + 1)); the last one is padded with silence. A codec has
the attributes of `AudioCodec`; `from_recipe` picks one by the recipe's kind.

The stand-in "mel-pca": four log-mel frames of hop 240 make one vector of 320, of which the 32
principal components of most variance are kept, each scaled to unit variance, or (ours) to the root
of its deviation: at unit variance a model errs alike in all components, the last of which have a
thousandth of the variance, and a quarter of a deviation in each costs most words. The way back is
to mel; Griffin-Lim or a vocoder makes sound of that.
Suffixes: N samples, T latent frames, S mel frames (4 T), M mel bands, A latent channels.
"""

import dataclasses
import typing
from collections.abc import Sequence

import numpy as np

from avjax.errors import UserError
from avjax.signal import mel as mel_lib
from avjax.signal import pca

SAMPLE_RATE = 24000
HOP = 960  # samples a latent frame
RATE = SAMPLE_RATE / HOP  # 25 Hz
DIM = 32
MEL = mel_lib.RECIPE_24K
STACK = HOP // MEL["hop"]  # mel frames a latent frame
# of the stand-in's components
SCALES = {"unit": "unit variance on the training split",
          "root": "square root of the deviation on the training split, of mean variance one"}


class AudioCodec(typing.Protocol):
    """Speech to latents and back. `from_recipe` restores one from `recipe` and `arrays()`."""

    recipe: dict
    ahead: int  # numbers that `many` should be given together; 0: one recording

    def encode(self, audio_N: np.ndarray) -> np.ndarray:
        """(N,) float samples in [-1, 1] at 24 kHz -> (ceil(N / 960), 32) float32."""

    def prepared(self, audio_N: np.ndarray) -> np.ndarray:
        """Samples as `encode` takes them -> what `many` takes. UserError: unusable ones."""

    def many(self, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The latents of several recordings, which may go through a network together; none depends
        on the others."""

    def mel(self, latent_TA: np.ndarray) -> np.ndarray:
        """(T, 32) -> (4 T, 80) log-mel of recipe `mel.RECIPE_24K`, normalised."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Fitted or trained arrays, as a dataset keeps them."""


@dataclasses.dataclass(frozen=True)
class MelPCA:
    """The stand-in "mel-pca"; see the top of this file."""

    codec: pca.LinearCodec
    scale: str = SCALES["unit"]
    ahead: typing.ClassVar[int] = 0

    @property
    def recipe(self) -> dict:
        """How the latents are made, without the fitted arrays (the dataset adds their hash)."""
        return {"kind": "mel-pca", "sample_rate": SAMPLE_RATE, "hop": HOP, "rate": RATE,
                "dim": len(self.codec.std), "stack": STACK, "mel": dict(MEL),
                "scale": self.scale}

    def encode(self, audio_N: np.ndarray) -> np.ndarray:
        """See AudioCodec."""
        return self.codec.encode(stacked_mel(audio_N))

    def prepared(self, audio_N: np.ndarray) -> np.ndarray:
        """See AudioCodec."""
        return stacked_mel(audio_N)

    def many(self, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See AudioCodec. Nothing is gained by several together."""
        return [self.codec.encode(mel_TA) for mel_TA in prepared]

    def mel(self, latent_TA: np.ndarray) -> np.ndarray:
        """See AudioCodec."""
        self._check(latent_TA)
        mel_SM = self.codec.decode(latent_TA).reshape(-1, MEL["bands"])
        # no mel of this recipe is below silence
        return np.maximum(mel_SM, mel_lib.normalise(mel_lib.FLOOR, MEL))

    def arrays(self) -> dict[str, np.ndarray]:
        """See AudioCodec."""
        return self.codec.arrays()

    def _check(self, latent_TA):
        width = len(self.codec.std)
        if np.ndim(latent_TA) != 2 or np.shape(latent_TA)[1] != width:
            raise UserError("wrong latent width", where="audio", expected=f"(frames, {width})",
                            found=str(np.shape(latent_TA)),
                            hint="use the codec that the model was trained with")


def stacked_mel(audio_N: np.ndarray) -> np.ndarray:
    """(N,) at 24 kHz -> (T, 4 * 80) normalised log-mel of the latent frames. Raises UserError for
    less than 20 ms."""
    audio_N = np.asarray(audio_N, np.float32)
    audio_N = np.pad(audio_N, (0, -len(audio_N) % HOP))
    return mel_lib.normalise(mel_lib.log_mel(audio_N, MEL), MEL).reshape(-1, STACK * MEL["bands"])


def fit(moments: pca.Moments, dim: int = DIM, scale: str = "unit") -> MelPCA:
    """The codec from the moments of `stacked_mel` over the training split, its components scaled as
    a key of SCALES says. Raises UserError when it spans too little."""
    codec = moments.codec(dim)
    if scale == "root":
        std_A = np.sqrt(codec.std * np.mean(codec.std)).astype(np.float32)
        codec = dataclasses.replace(codec, std=std_A)
    return MelPCA(codec, SCALES[scale])


def moments() -> pca.Moments:
    """To be filled with `stacked_mel` of every clip, and given to `fit`."""
    return pca.Moments(STACK * MEL["bands"])


def from_recipe(recipe: dict, arrays: dict[str, np.ndarray],
                where: str = "codecs/audio.npz") -> AudioCodec:
    """The codec of a dataset or workdir. Raises UserError for kinds that are unknown or need
    weights."""
    if recipe.get("kind") == "mel-pca":
        codec = MelPCA(pca.LinearCodec.from_arrays(arrays, where),
                       recipe.get("scale", SCALES["unit"]))
        if len(codec.codec.mean) != STACK * MEL["bands"] or recipe.get("mel") != MEL:
            raise UserError("audio codec of another mel", where=where, expected=str(MEL),
                            found=str(recipe.get("mel")),
                            hint="extract the features again")
        return codec
    raise UserError("unknown audio codec", where="recipes.json, audio", expected="kind mel-pca",
                    found=repr(recipe.get("kind")), hint="extract the features with a codec that "
                                                         "this version has")
