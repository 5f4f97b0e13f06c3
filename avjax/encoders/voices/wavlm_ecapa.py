"""A voice by a speaker-verification network: WavLM (or another encoder of the wav2vec 2.0 family)
and ECAPA-TDNN, frozen. 16 kHz in; the published one gives 256 numbers.

Suffixes: B batch, N samples, L states of the encoder, T frames, D width, E embedding.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from avjax.encoders import windows
from avjax.encoders.published.stated import stated
from avjax.encoders.speech_frames import UTTERANCE_EPS
from avjax.encoders.voices.ecapa import Ecapa, EcapaConfig
from avjax.encoders.voices.published import import_params, sizes
from avjax.encoders.voices.speech import TooLittle
from avjax.encoders.wav2vec2 import Wav2Vec2, Wav2Vec2Config, config_of
from avjax.errors import UserError
from avjax.sharding import rows
from avjax.sharding.mesh import replicated
from avjax.weights.reader import file_sha256, read_state_dict

KIND = "wavlm-ecapa"
REFERENCE_SECONDS = 1.0  # of a voice that somebody is to sound like, at least; ours by choice


class WavlmEcapa:
    """The voice slot's interface (avjax/encoders/voices), without anything to fit; `width` is
    E."""

    sample_rate = windows.SAMPLE_RATE

    def __init__(self, path: str, mesh: Mesh | None = None):
        """From a published file. mesh: batches are split over its data axes; None = one device.
        UserError: unreadable, or of another network."""
        found = stated(path)
        params = import_params(read_state_dict(path), where=str(path))
        self._network = dataclasses.replace(config_of(params["encoder"], found=found), vocab_size=0)
        self._ecapa = sizes(params["ecapa"])
        self._normalise = (self._network.conv_norm == "layer" if found.normalise is None
                           else found.normalise)
        self._mesh = mesh or rows.one_device()
        params["encoder"].pop("lm_head", None)
        self._params = jax.device_put(params, replicated(self._mesh))
        self.width = self._ecapa.embedding
        self.recipe = {"kind": KIND, "width": self.width,
                       "sample_rate": self.sample_rate, "normalise": self._normalise,
                       "network": dataclasses.asdict(self._network), "weights": file_sha256(path)}

    def __call__(self, audio_N: np.ndarray) -> np.ndarray:
        """(N,) float samples at 16 kHz of the reference voice -> (E,) float32. TooLittle: under a
        second, or as `raw`."""
        return self.many([self._prepared(audio_N, REFERENCE_SECONDS)])[0]

    def prepared(self, audio_N: np.ndarray) -> np.ndarray:
        """What `many` takes: of any length that gives a frame, at one level where the network was
        trained so. TooLittle: no frame, silence, or not finite."""
        return self._prepared(audio_N, self._network.min_samples() / self.sample_rate)

    def _prepared(self, audio_N: np.ndarray, least: float) -> np.ndarray:
        audio_N = np.asarray(audio_N, np.float32)
        seconds = len(audio_N) / self.sample_rate
        if seconds < least or not np.isfinite(audio_N).all() or not np.ptp(audio_N):
            raise TooLittle("too little sound to tell a voice by", where="the recording",
                            expected=f"{least:g} s of speech", found=f"{seconds:.2f} s"
                            + (", silent" if seconds >= least else ""),
                            hint="give another recording of the voice")
        return self._normalised(audio_N)

    def fit(self, raw_US: np.ndarray, speakers=None) -> "WavlmEcapa":
        """Itself: nothing is fitted."""
        del raw_US, speakers
        return self

    def scale(self, raw_S: np.ndarray) -> np.ndarray:
        """As it is: models take the network's own numbers."""
        return raw_S

    def many(self, audio: Sequence[np.ndarray]) -> np.ndarray:
        """Utterances (n_i,) as `prepared` gives them -> (U, E) float32, those of like length
        together; none depends on the others."""
        run = functools.partial(_run, self._network, self._ecapa, self._params)
        return np.stack(rows.through(run, [(x_N,) for x_N in audio], self._mesh,
                                     padded=windows.bucket, most=windows.most))

    def arrays(self) -> dict[str, np.ndarray]:
        """Nothing: the weights stay in their file, which the recipe names."""
        return {}

    def _normalised(self, x_N):
        return (x_N - x_N.mean()) / np.sqrt(x_N.var() + UTTERANCE_EPS) if self._normalise else x_N


class Unloaded:
    """A voice whose weights are not there: it says what it is, and hears nothing."""

    sample_rate = windows.SAMPLE_RATE

    def __init__(self, recipe: Mapping):
        self.recipe, self.width = dict(recipe), recipe["width"]

    def arrays(self) -> dict[str, np.ndarray]:
        """Nothing, as WavlmEcapa."""
        return {}

    def scale(self, raw_S: np.ndarray) -> np.ndarray:
        """As WavlmEcapa."""
        return raw_S

    def __call__(self, audio_N: np.ndarray) -> np.ndarray:
        """Raises UserError."""
        known = self.recipe.get("weights")
        raise UserError("this model's voices are made by WavLM with ECAPA-TDNN", where="--voice",
                        expected=f"its weights, of SHA-256 {known[:12]}..." if known else
                        "its weights, wavlm_large_finetune.pth",
                        found="none", hint="give the file that the features were extracted with; "
                        "--example or --speaker need none")


def of_recipe(recipe: Mapping, weights: str) -> WavlmEcapa | Unloaded:
    """Of a file; without one, Unloaded. UserError: weights of another network than the recipe's, or
    of another width where the recipe names none (a release that was imported without them)."""
    if not weights:
        return Unloaded(recipe)
    found = load(weights)
    if "weights" not in recipe:
        if found.width != recipe["width"]:
            raise UserError("voices of another network", where=f"--voice={weights}",
                            expected=f"{recipe['width']} numbers", found=str(found.width))
        return found
    if found.recipe["weights"] != recipe["weights"]:
        raise UserError("voices of another network", where=f"--voice={weights}",
                        expected=f"weights of SHA-256 {recipe['weights'][:12]}..., from which the "
                        "model learnt", found=f"{found.recipe['weights'][:12]}...",
                        hint="give the file that the features were extracted with")
    return found


@functools.lru_cache(maxsize=1)
def load(path: str) -> WavlmEcapa:
    """Of a file, kept for the next recording."""
    return WavlmEcapa(path)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(network: Wav2Vec2Config, ecapa: EcapaConfig, params, x_BN, lengths_B):
    """The encoder's states are the input of every layer and, normed, the last one's output."""
    with jax.default_matmul_precision("float32"):
        out = Wav2Vec2(network).apply({"params": params["encoder"]}, x_BN, lengths_B,
                                      with_layers=True)
        weight_L = params["weight_L"]
        mixed_BTD = (weight_L[0] * out["encoder_in"] + weight_L[-1] * out["last_hidden"]
                     + jnp.tensordot(weight_L[1:-1], out["layers"][:-1], 1))
        return Ecapa(ecapa).apply({"params": params["ecapa"]}, mixed_BTD, out["frames"])
