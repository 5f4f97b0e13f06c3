"""Frames of speech at 50 Hz that units are made of: an inner layer of a wav2vec 2.0 network, or
log-mel.

An encoder has the attributes of `SpeechFrames`. Frame k of either kind begins at sample
320 k.
Suffixes: B batch, N samples, T frames, D width, K centroids, M mel bands.
"""

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from avjax.encoders import windows
from avjax.encoders.published.stated import stated
from avjax.encoders.published.wav2vec2 import import_params
from avjax.encoders.wav2vec2 import Wav2Vec2, Wav2Vec2Config, config_of
from avjax.encoders.windows import HOP, SAMPLE_RATE
from avjax.errors import UserError
from avjax.sharding import rows
from avjax.sharding.mesh import batch_sharding, replicated
from avjax.signal import kmeans, mel
from avjax.signal import level as level_lib
from avjax.weights.reader import file_sha256, read_state_dict

# A network for random weights: small convolutions, two layers. Ours by choice.
RANDOM = Wav2Vec2Config(d_model=128, num_layers=2, num_heads=4, d_ff=256, conv_dims=(64,) * 7,
                        conv_bias=True, conv_norm="layer", pre_norm=True, position_kernel=16,
                        position_groups=4)
MEL = mel.RECIPE | {"sample_rate": SAMPLE_RATE, "n_fft": 2 * HOP, "hop": HOP, "bands": 40,
                    "gain": 1.0}
_ACTIVE = 4.0  # nats: frames within so much of the loudest are speech
_MUCH = 3600.0  # seconds of sound for which compiling a minute more is worth it
UTTERANCE_EPS = 1e-5  # of the utterance normalisation


class SpeechFrames(Protocol):
    """`recipe` holds everything that the frames depend on; `width` is D."""

    recipe: dict
    width: int

    def __call__(self, audio: Sequence[np.ndarray], centroids_KD: np.ndarray
                 | None = None) -> list[np.ndarray]:
        """Utterances (n_i,) float32 at 16 kHz -> their frames (T_i, D) float32, or the nearest
        centroids (T_i,) int32. Results of one do not depend on the others. UserError: an utterance
        shorter than a frame."""

    def expect(self, seconds: float) -> None:
        """Call before so much sound is to be encoded: how much there is decides how finely lengths
        are told apart. No value depends on it."""


class MelFrames:
    """Log-mel frames, each band less its mean over the utterance's loud frames, beside `context`
    frames on either side."""

    def __init__(self, context: int = 1, level: dict | None = level_lib.RECIPE,
                 silence_db: float | None = None):
        """
        Args:
          level: of the speech that frames are made of; None: as it comes.
          silence_db: a frame whose mean over bands is so much below that of the loudest is one
            constant vector, so that silence is one unit; None: as it is.
        """
        self.width = MEL["bands"] * (2 * context + 1)
        self._context, self._level, self._silence = context, level, silence_db
        self.recipe = {"kind": "mel", "mel": dict(MEL), "context": context, "width": self.width,
                       "normalise": f"bands less their mean over frames within {_ACTIVE} nats of "
                       "the loudest"}
        self.recipe |= {"level": dict(level)} if level else {}
        self.recipe |= {"silence_db": silence_db} if silence_db else {}

    def __call__(self, audio, centroids_KD=None):
        """See SpeechFrames."""
        frames = [self._frames(_checked(x_N, MEL["n_fft"])) for x_N in audio]
        return frames if centroids_KD is None else [kmeans.assign(x_TD, centroids_KD)
                                                    for x_TD in frames]

    def expect(self, seconds):
        """See SpeechFrames."""

    def _frames(self, audio_N):
        mel_TM = mel.log_mel(level_lib.normalised(audio_N, SAMPLE_RATE, self._level), MEL)
        level_T = mel_TM.mean(1)
        mel_TM = mel_TM - mel_TM[level_T >= level_T.max() - _ACTIVE].mean(0)
        near_TS = np.arange(len(mel_TM))[:, None] + np.arange(-self._context, self._context + 1)
        frames_TD = mel_TM[np.clip(near_TS, 0, len(mel_TM) - 1)].reshape(len(mel_TM), -1)
        if self._silence:
            below = self._silence * np.log(10) / 20  # decibels to nats of amplitude
            frames_TD[level_T < level_T.max() - below] = -below
        return frames_TD


class Wav2Vec2Frames:
    """The raw output of an inner layer of wav2vec 2.0, HuBERT or XLS-R; layers behind it are not
    computed."""

    def __init__(self, network: Wav2Vec2Config, params: dict, *, layer: int, normalise: bool,
                 weights: dict,
                 precision: str = "float32", mesh: Mesh | None = None):
        """
        Args:
          network, params: parameters may have more layers than are needed.
          layer: transformer layers passed: 0 = the encoder's input, 35 = "layer 35",
            `hidden_states[35]`.
          normalise: every utterance to zero mean and unit variance (XLS-R), or not (HuBERT).
          weights: where the parameters come from, for the recipe.
          precision: of products, a name of JAX; decides on units near a tie, so it is in the
            recipe.
          mesh: batches are split over its data axes; None = one device.

        Raises:
          UserError: fewer layers than `layer`, or strides that do not give 50 frames a second.
        """
        if not 0 <= layer <= network.num_layers or np.prod(network.conv_strides) != HOP:
            raise UserError("not a network for units", where="wav2vec 2.0 weights",
                            expected=f"layer 0 to {network.num_layers}, "
                            f"convolutions that stride {HOP} samples",
                            found=f"layer {layer}, strides {network.conv_strides}",
                            hint="choose another --layer or another checkpoint")
        self.width = network.d_model
        self.recipe = {"kind": "wav2vec2", "layer": layer, "normalise": normalise,
                       "precision": precision, "width": self.width, "windows": dict(windows.RECIPE),
                       "network": dataclasses.asdict(network), "weights": weights}
        self._network = dataclasses.replace(network, num_layers=layer, vocab_size=0)
        self._normalise, self._precision, self._steps = normalise, precision, windows.FEW
        self._mesh = mesh or rows.one_device()
        kept = {k: v for k, v in params.items() if k not in ("lm_head", "layers")}
        kept |= {"layers": jax.tree.map(lambda w: w[:layer], params["layers"])} if layer else {}
        self._params = jax.device_put(kept, replicated(self._mesh))

    @classmethod
    def from_checkpoint(cls, path: str, *, layer: int = 35, normalise: bool | None = None,
                        num_heads: int | None = None, precision: str = "float32",
                        mesh: Mesh | None = None) -> "Wav2Vec2Frames":
        """From a published file. normalise None: as fairseq's or WavLM's config in the file says;
        else yes for networks with layer norm in their convolutions (XLS-R), and no for others
        (HuBERT base). UserError: unreadable, of another network, with fewer layers."""
        network, params, usual = read_network(path, num_heads)
        return cls(network, params, layer=layer,
                   normalise=usual if normalise is None else normalise,
                   weights={"kind": "file", "sha256": file_sha256(path)},
                   precision=precision, mesh=mesh)

    @classmethod
    def random(cls, network: Wav2Vec2Config = RANDOM, *, layer: int = 1, seed: int = 0,
               mesh: Mesh | None = None
               ) -> "Wav2Vec2Frames":
        """Weights never trained, a function of `network` and `seed`: what the architecture alone
        makes of sound."""
        return cls(network, random_params(network, seed), layer=layer, normalise=True,
                   weights={"kind": "random", "seed": seed},
                   mesh=mesh)

    def __call__(self, audio, centroids_KD=None):
        """See SpeechFrames."""
        kmeans.check_width(centroids_KD, self.width,
                           "units of wav2vec 2.0 frames") if centroids_KD is not None else None
        utterances = [self._normalised(_checked(x_N, self._network.min_samples())) for x_N in audio]
        cuts = [windows.pieces(len(x_N)) for x_N in utterances]
        found = {}

        def run(batch):
            where, x_BN, lengths_B = batch
            arrays = jax.device_put((x_BN, lengths_B), batch_sharding(self._mesh))
            with jax.default_matmul_precision(self._precision):
                return where, np.asarray(_run(self._network, self._params, *arrays, centroids_KD))

        with concurrent.futures.ThreadPoolExecutor(self._at_once()) as threads:
            for where, out in threads.map(run, windows.batches(
                    utterances, cuts, rows.shards(self._mesh), self._steps)):
                found |= dict(zip(where, out, strict=False))
        return [windows.joined([found[i, j] for j in range(len(cut))], cut,
                               self._network.num_frames)
                for i, cut in enumerate(cuts)]

    def expect(self, seconds):
        """See SpeechFrames."""
        self._steps = windows.MANY if seconds > _MUCH else windows.FEW

    def _at_once(self) -> int:
        """Batches under way together. A CPU has a core for each: XLA splits products over cores but
        not what is between them. Devices of a mesh take theirs in one order."""
        alone = self._mesh.size == 1 and jax.default_backend() == "cpu"
        return len(os.sched_getaffinity(0)) if alone else 1

    def _normalised(self, x_N):
        return (x_N - x_N.mean()) / np.sqrt(x_N.var() + UTTERANCE_EPS) if self._normalise else x_N


def read_network(path: str,
                 num_heads: int | None = None) -> tuple[Wav2Vec2Config, dict, bool]:
    """A published file's sizes, its parameters of all layers, and whether it takes utterances of
    zero mean and unit variance: see Wav2Vec2Frames.from_checkpoint."""
    found = stated(path)
    params = import_params(read_state_dict(path), where=str(path))
    network = config_of(params, num_heads, found)
    usual = network.conv_norm == "layer" if found.normalise is None else found.normalise
    return network, params, usual


@functools.partial(jax.jit, static_argnums=0)
def _run(network: Wav2Vec2Config, params, x_BN, lengths_B, centroids_KD):
    hidden_BTD = Wav2Vec2(network).apply({"params": params}, x_BN, lengths_B)["hidden"]
    if centroids_KD is None:
        return hidden_BTD
    return kmeans.nearest(hidden_BTD.reshape(-1, network.d_model),
                          centroids_KD).reshape(hidden_BTD.shape[:2])


def random_params(network: Wav2Vec2Config, seed: int) -> dict:
    """Parameters as training would start from, drawn by numpy: the same with every version of JAX.
    Kernels are normal with variance 2 / fan-in, norms the identity, biases zero."""
    shapes = jax.eval_shape(Wav2Vec2(network).init, jax.random.key(0),
                            jax.ShapeDtypeStruct((1, SAMPLE_RATE), np.float32))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name != "kernel":
            return np.full(leaf.shape, float(name == "scale"), np.float32)
        stacked = any(p.key == "layers" for p in path)
        fan_in = np.prod(leaf.shape[stacked:-1])
        return (rng.standard_normal(leaf.shape) * np.sqrt(2 / fan_in)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes["params"])


def _checked(audio_N, least: int) -> np.ndarray:
    audio_N = np.asarray(audio_N)
    if audio_N.ndim != 1 or len(audio_N) < least or audio_N.dtype.kind != "f" or not np.isfinite(
        audio_N).all():
        finite = audio_N.dtype.kind != "f" or np.isfinite(audio_N).all()
        raise UserError("audio that units cannot be made of", where="speech units",
                        expected=f"a vector of at least {least} finite floats at {SAMPLE_RATE} Hz",
                        found=f"{audio_N.dtype} {audio_N.shape}" if finite else "NaN or infinity",
                        hint="leave the clip out")
    return audio_N.astype(np.float32)
