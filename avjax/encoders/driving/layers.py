"""All layers of wav2vec 2.0 at 25 frames a second: what Hallo2 makes its audio tokens of.

The frames of the convolutions are brought to the pictures' clock by linear interpolation before the
encoder runs, as in Hallo2's public code (of that step there is no recording here, of the encoder
there is). Sound is cut into pieces of 60 s, each normalised to zero mean and unit variance.
Suffixes: N samples, T frames, L layers, D width, A = L D.
"""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from avjax.encoders.published.stated import stated
from avjax.encoders.published.wav2vec2 import import_params
from avjax.encoders.speech_frames import RANDOM, UTTERANCE_EPS, random_params
from avjax.encoders.wav2vec2 import Wav2Vec2, Wav2Vec2Config, config_of
from avjax.encoders.windows import SAMPLE_RATE, bucket
from avjax.errors import UserError
from avjax.weights.reader import file_sha256, read_state_dict

KIND, RATE = "wav2vec2-layers", 25
PIECE = 60 * SAMPLE_RATE  # samples
HOP = SAMPLE_RATE // RATE
RANDOM_KIND = "random"


class SoundLayers:
    """`recipe`: everything that the frames depend on; `width`: A; `layers`: L."""

    def __init__(self, network: Wav2Vec2Config, params: dict, weights: dict):
        """weights: where the parameters come from, for the recipe."""
        self._network = dataclasses.replace(network, vocab_size=0)
        self._params = jax.device_put({k: v for k, v in params.items() if k != "lm_head"})
        self.layers, self.width = network.num_layers, network.num_layers * network.d_model
        self.recipe = {"kind": KIND, "rate": RATE, "piece": PIECE // SAMPLE_RATE,
                       "weights": weights, "layers": self.layers, "width": self.width,
                       "network": dataclasses.asdict(self._network),
                       "clock": "linear, before the encoder"}

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike) -> "SoundLayers":
        """Of a published file (wav2vec2-base-960h; a CTC head is left out). UserError: unreadable,
        of another network."""
        params = import_params(read_state_dict(path), where=str(path))
        return cls(config_of(params, None, stated(path)), params,
                   {"kind": "file", "sha256": file_sha256(path)})

    @classmethod
    def random(cls, seed: int = 0) -> "SoundLayers":
        """A small network that was never trained, for tests and puppets."""
        return cls(RANDOM, random_params(RANDOM, seed), {"kind": RANDOM_KIND, "seed": seed})

    def __call__(self, audio_N: np.ndarray, frames: int) -> np.ndarray:
        """Speech (N,) float32 at 16 kHz -> (frames, A) float16; sound that ends before is followed
        by silence."""
        audio_N = np.asarray(audio_N, np.float32)[:frames * HOP]
        audio_N = np.pad(audio_N, (0, max(0, frames * HOP - len(audio_N))))
        parts = [self._piece(audio_N[i:i + PIECE]) for i in range(0, len(audio_N), PIECE)]
        return np.concatenate(parts) if parts else np.zeros((0, self.width), np.float16)

    def _piece(self, x_N: np.ndarray) -> np.ndarray:
        frames = len(x_N) // HOP
        x_N = (x_N - x_N.mean()) / np.sqrt(x_N.var() + UTTERANCE_EPS)
        padded_N = np.zeros(bucket(len(x_N)), np.float32)
        padded_N[:len(x_N)] = x_N
        size = len(padded_N) // HOP
        with jax.default_matmul_precision("float32"):
            out_LTD = _run(self._network, self._params, padded_N, np.int32(len(x_N)),
                           np.int32(frames), size)
        out_TLD = np.moveaxis(np.asarray(out_LTD)[:, :frames], 0, 1)
        return out_TLD.reshape(frames, -1).astype(np.float16)


def from_recipe(recipe: dict, path: str | os.PathLike | None, where: str) -> SoundLayers:
    """The encoder that a dataset's or workdir's features were made by. path: of its weights.
    UserError: another kind, no weights, or others."""
    if recipe.get("kind") != KIND:
        raise UserError("this model is not driven by sound", where=where, expected=f"kind {KIND}",
                        found=repr(recipe.get("kind")),
                        hint="train on features that were extracted with --audio_encoder")
    weights = recipe["weights"]
    if weights["kind"] == RANDOM_KIND:
        return SoundLayers.random(weights["seed"])
    if not path:
        raise UserError("the network that hears the sound is missing", where="--audio_encoder",
                        expected=f"the wav2vec 2.0 weights {weights['sha256'][:16]}...",
                        found="nothing", hint="give the file that the features were made with")
    encoder = SoundLayers.from_checkpoint(path)
    if encoder.recipe["weights"] != weights:
        raise UserError("other weights than those that the model was trained with", where=str(path),
                        expected=f"sha256 {weights['sha256'][:16]}...",
                        found=f"{encoder.recipe['weights']['sha256'][:16]}...",
                        hint="give the file that the features were made with")
    return encoder


@functools.partial(jax.jit, static_argnums=(0, 5))
def _run(network: Wav2Vec2Config, params, x_N, length, frames, size: int):
    """(L, size, D)."""
    out = Wav2Vec2(network).apply({"params": params}, x_N[None], length[None], with_layers=True,
                                  clock=(size, jnp.asarray(frames)[None]))
    return out["layers"][:, 0]
