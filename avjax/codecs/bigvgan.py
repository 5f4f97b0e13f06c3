"""BigVGAN (Lee et al. 2023) as a vocoder: its files, the mel that it inverts, and its sound in
windows. The network is in bigvgan_network.

`waveform` works in windows with enough frames around each to change nothing, so that memory does
not grow with length.
A vocoder inverts one definition of mel: its hash is compared, another raises UserError.
Suffixes: B batch, T mel frames, M mel bands, N samples.
"""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Iterator

import jax
import numpy as np

from avjax.codecs.bigvgan_network import BigVGANConfig, generator, quick
from avjax.codecs.published import bigvgan as weights
from avjax.errors import UserError
from avjax.signal import mel as mel_lib
from avjax.storage import made as records
from avjax.weights.reader import read_checkpoint, read_state_dict

SIGNAL = ("kind", "sample_rate", "n_fft", "hop", "window", "bands", "fmin", "fmax", "scale", "pad",
          "magnitude", "log")
WINDOW = 960  # mel frames made at once, at most: 11 s
# windows are multiples of it, so that few are ever compiled
QUANTUM = 96


@functools.partial(jax.jit, static_argnames=("config", "count"))
def _generate(config: BigVGANConfig, params, mel_BTM, frames=None, at=None, count=None):
    with jax.default_matmul_precision("float32"):
        return generator(config, params, mel_BTM, frames, at, count)


# ---- which mel

def signal_of(recipe: dict) -> dict:
    """The part of a mel recipe that a vocoder depends on: not how it is scaled afterwards."""
    return {k: float(recipe[k]) if isinstance(recipe.get(k), int | float) else recipe.get(k)
            for k in SIGNAL}


def mel_hash(recipe: dict) -> str:
    """16 hex digits over `signal_of`."""
    return records.digest(signal_of(recipe))


def mel_of_published(sizes: dict) -> dict:
    """The mel that a published config.json names, in the words of avjax.signal.mel; unscaled."""
    window = ("hann-periodic" if sizes["win_size"] == sizes["n_fft"]
              else f"hann-periodic of {sizes['win_size']}")
    top = sizes["fmax"] if sizes["fmax"] is not None else sizes["sampling_rate"] / 2
    return {k: mel_lib.RECIPE[k] for k in SIGNAL} | {
        "sample_rate": sizes["sampling_rate"], "n_fft": sizes["n_fft"], "hop": sizes["hop_size"],
        "window": window, "bands": sizes["num_mels"], "fmin": float(sizes["fmin"]),
        "fmax": float(top)}


# ---- the codec

class BigVGAN:
    """A vocoder with its weights. `recipe` and `arrays()` are all that is needed to have it
    back."""

    def __init__(self, config: BigVGANConfig, params: dict, mel: dict, weights_hash: str = "",
                 window: int = WINDOW):
        self.config = config
        self.mel = {k: mel[k] for k in SIGNAL}
        self.window = window
        if math.prod(config.rates) != mel["hop"] or config.bands != mel["bands"]:
            raise UserError("the vocoder and its mel do not belong together",
                            where="config.json of the vocoder",
                            expected=f"{config.bands} bands, hop {math.prod(config.rates)}",
                            found=f"{mel['bands']} bands, hop {mel['hop']}",
                            hint="use the config.json of these weights")
        self.recipe = {"kind": "bigvgan",
                       "network": json.loads(json.dumps(dataclasses.asdict(config))),
                       "mel": self.mel,
                       "mel_hash": mel_hash(mel), "weights": weights_hash}
        self.params = params
        on_cpu = jax.default_backend() == "cpu"
        self._params = jax.device_put(quick(params) if on_cpu else params)

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike, sizes: dict | None = None) -> "BigVGAN":
        """From a published file ({"generator": weights} or the weights alone; weight norm is
        folded).

        `sizes`: its config.json as a dict; by default the file config.json beside it, else what the
        weights show, with the dilations of every published model, the rates half of the kernels and
        the 22 kHz mel. UserError: not a BigVGAN.
        """
        path = os.fspath(path)
        tree = read_checkpoint(path)
        nested = isinstance(tree, dict) and (isinstance(tree.get("generator"), dict) or any(
            name.startswith("generator.") for name in tree))
        state = read_state_dict(path, "generator" if nested else None)
        beside = os.path.join(path if os.path.isdir(path) else os.path.dirname(path), "config.json")
        if sizes is None and os.path.isfile(beside):
            with open(beside) as file:
                sizes = json.load(file)
        bands = weights.bigvgan_sizes(state, path)["num_mels"]
        if sizes is None and bands != mel_lib.RECIPE["bands"]:  # published at 24 and 44.1 kHz
            raise UserError("the weights do not show the vocoder's sample rate", where=path,
                            found=f"{bands} bands", expected="its config.json beside them, or "
                                                             f"{mel_lib.RECIPE['bands']} bands",
                            hint="fetch the config.json of these weights too")
        return cls.from_state_dict(state, sizes, where=path)

    @classmethod
    def from_state_dict(cls, state: dict[str, np.ndarray], sizes: dict | None = None,
                        where: str = "") -> "BigVGAN":
        """As `from_checkpoint`, of arrays under published names."""
        sizes = weights.bigvgan_sizes(state, where) | (sizes or {})
        if str(sizes["resblock"]) != "1" or sizes["activation"] not in ("snake", "snakebeta"):
            raise UserError("a BigVGAN of another make", where=where,
                            expected="resblock 1 with snake or snakebeta",
                            found=f"resblock {sizes['resblock']}, {sizes['activation']}")
        config = BigVGANConfig(
            sizes["num_mels"], sizes["upsample_initial_channel"], tuple(sizes["upsample_rates"]),
            tuple(sizes["upsample_kernel_sizes"]), tuple(sizes["resblock_kernel_sizes"]),
            tuple(tuple(d) for d in sizes["resblock_dilation_sizes"]),
            bool(sizes["snake_logscale"]),
            bool(sizes["use_tanh_at_final"]))
        params = weights.import_bigvgan(state, config, where)
        return cls(config, params, mel_of_published(sizes), weights.arrays_hash(params))

    @classmethod
    def from_recipe(cls, recipe: dict, arrays: dict[str, np.ndarray],
                    where: str = "codecs/vocoder.npz") -> "BigVGAN":
        """Back from `recipe` and `arrays()`. UserError: another kind, other arrays."""
        if recipe.get("kind") != "bigvgan":
            raise UserError("unknown vocoder", where=where, expected="kind bigvgan",
                            found=repr(recipe.get("kind")))
        network = {k: tuple(tuple(x) if isinstance(x, list) else x for x in v)
                   if isinstance(v, list) else v
                   for k, v in recipe["network"].items()}
        params = weights.nested(arrays)
        if weights.arrays_hash(params) != recipe["weights"]:
            raise UserError("the vocoder's arrays are not those of its recipe", where=where,
                            expected=recipe["weights"], found=weights.arrays_hash(params),
                            hint="copy the folder again")
        return cls(BigVGANConfig(**network), params, recipe["mel"], recipe["weights"])

    def arrays(self) -> dict[str, np.ndarray]:
        """The folded weights under our names."""
        return {name: np.asarray(value) for name, value in weights.flat(self.params).items()}

    @property
    def sample_rate(self) -> int:
        """Hz of the waveform."""
        return int(self.mel["sample_rate"])

    @property
    def hop(self) -> int:
        """Samples a mel frame."""
        return int(self.mel["hop"])

    def check(self, recipe: dict, where: str = "mel recipe") -> None:
        """UserError unless mel of this recipe is what the vocoder was trained on."""
        if mel_hash(recipe) != mel_hash(self.mel):
            ours, theirs = signal_of(self.mel), signal_of(recipe)
            differing = [k for k in SIGNAL if ours[k] != theirs[k]]
            raise UserError("the vocoder was trained on another mel", where=where,
                            expected=f"{mel_hash(self.mel)} "
                            + ", ".join(f"{k}={ours[k]}" for k in differing),
                            found=f"{mel_hash(recipe)} "
                            + ", ".join(f"{k}={theirs[k]}" for k in differing),
                            hint="use a vocoder of that mel, or Griffin-Lim")

    def waveform(self, log_mel_TM: np.ndarray, recipe: dict = mel_lib.RECIPE) -> np.ndarray:
        """(T, M) log-mel of the recipe (not normalised) -> (T * hop,) float32 at its rate.

        The recipe's gain is undone. UserError: a recipe that the vocoder does not know, another
        shape, numbers that are not finite.
        """
        return np.concatenate(list(self.chunks(log_mel_TM, recipe)))

    def part(self, log_mel_TM: np.ndarray, gain: float, *, at: int, count: int,
             ended: bool) -> np.ndarray:
        """The samples of `count` frames from frame `at` on, times `gain`, in [-1, 1].

        Mel begins where the signal does or a halo before `at`; it ends with the signal (`ended`) or
        reaches at least a halo beyond what is wanted. Compiled for every count.
        """
        length = count + 2 * self.config.halo()
        frames = len(log_mel_TM) if ended else length
        return self._made(log_mel_TM, gain, length, frames, at, count)

    def _made(self, log_mel_TM, gain: float, length: int, *places) -> np.ndarray:
        padded_TM = np.pad(log_mel_TM, ((0, length - len(log_mel_TM)), (0, 0)))
        audio_N = np.asarray(_generate(self.config, self._params, padded_TM[None], *places)[0])
        return np.clip(audio_N * gain, -1.0, 1.0)

    def chunks(self, log_mel_TM: np.ndarray, recipe: dict = mel_lib.RECIPE) -> Iterator[np.ndarray]:
        """`waveform` in parts, each made on demand. Mel of at most a window is one part, longer mel
        is cut into the windows that cost least."""
        self.check(recipe)
        log_mel_TM = mel_lib.checked(log_mel_TM, self.config.bands, "the vocoder")
        frames, halo, gain = len(log_mel_TM), self.config.halo(), recipe.get("gain", 1.0)
        if frames <= self.window:
            length = next((n for n in self._sizes() if n >= frames), self.window)
            yield self._made(log_mel_TM, gain, length, frames)[:frames * self.hop]
            return
        count = min(self._sizes(), key=lambda n: -(-frames // n) * (n + self.config.surplus()))
        for first in range(0, frames, count):
            start = max(first - halo, 0)
            end = min(start + count + 2 * halo, frames)
            audio_N = self.part(log_mel_TM[start:end], gain, at=first - start, count=count,
                                ended=end == frames)
            yield audio_N[:(frames - first) * self.hop]

    def _sizes(self) -> list[int]:
        """Frames of the windows there are."""
        return [*range(QUANTUM, self.window, QUANTUM), self.window]
