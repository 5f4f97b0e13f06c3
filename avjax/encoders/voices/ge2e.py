"""GE2E: who speaks, as 256 numbers of a network trained to tell speakers apart (Wan et al. 2018),
with the weights that the package resemblyzer (0.1.4, Apache-2.0) carries.

Speech at 16 kHz is trimmed and raised to one level (speech.py); 40 mel bands a 10 ms make frames;
windows of 160 frames, 77 apart, go each through three LSTM layers of 256; the last state of the top
layer, projected, rectified and of length one, is a window's vector. Their mean, of length one, is
the voice. The package is neither imported nor are its dependencies, PyTorch among them, needed.
Suffixes: N samples, P windows, T frames, W samples of a frame, M mel bands, D width.
"""

import functools
import importlib.util
import pathlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from avjax.encoders.voices import speech
from avjax.errors import UserError
from avjax.sharding import rows
from avjax.sharding.mesh import replicated
from avjax.signal import mel
from avjax.weights.reader import read_state_dict

PACKAGE, FILE, STATE = "resemblyzer", "pretrained.pt", "model_state"
INSTALL = "pip install --no-deps resemblyzer==0.1.4"
LAYERS, WIDTH = 3, 256
FRAMES, STEP = 160, 77  # of a window, and between their starts: 1.3 windows a second
LEAST = 0.75  # share of the last window that must be speech
AT_ONCE = 64  # windows that a device takes together, a CPU too: 49 s of speech
SHORTEST = 1.0  # seconds of speech (ours; the package fills up any length with silence)
_FFT, _HOP, _BANDS = 400, 160, 40
_NAMES = tuple(f"lstm.{part}_l{layer}" for layer in range(LAYERS)
               for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
               ) + ("linear.weight", "linear.bias")
RECIPE = {"kind": "ge2e", "version": 1, "width": WIDTH, "sample_rate": speech.RATE,
          "speech": dict(speech.RECIPE),
          "mel": {"n_fft": _FFT, "hop": _HOP, "bands": _BANDS, "scale": "slaney",
                  "pad": "zeros n_fft / 2", "magnitude": "power", "log": "none"},
          "windows": {"frames": FRAMES, "step": STEP, "least": LEAST},
          "scale": "unit power"}


def default_weights() -> pathlib.Path:
    """The file in the installed package. UserError, with the command, where there is none."""
    spec = importlib.util.find_spec(PACKAGE)  # does not import it
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = pathlib.Path(folders[0], FILE) if folders else None
    if path is None or not path.is_file():
        raise UserError("no weights of the GE2E voice encoder", where=f"package {PACKAGE}",
                        expected=FILE, found="a package without it" if folders else
                        "no such package", hint=f"{INSTALL}, or leave --voice=ge2e out")
    return path


def read(path=None) -> dict[str, np.ndarray]:
    """{published name: array} of a file; None: of the package's. UserError: none, or another
    network's."""
    path = str(path or default_weights())
    return checked(read_state_dict(path, select=STATE), path)


def checked(arrays: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """The network's own arrays, float32. UserError: one is missing or of another shape."""
    out = {}
    for name in _NAMES:
        first = 4 * WIDTH if name.startswith("lstm") else WIDTH
        shape = (first,) if "bias" in name else (first, _BANDS if name.endswith("ih_l0") else WIDTH)
        found = arrays[name].shape if name in arrays else "nothing"
        if found != shape:
            raise UserError("not the weights of the GE2E voice encoder", where=f"{where}, {name}",
                            expected=str(shape), found=str(found), hint=f"{INSTALL} has them")
        out[name] = np.asarray(arrays[name], np.float32)
    return out


class Ge2e:
    """The voice slot's interface (avjax/encoders/voices), without anything to fit."""

    sample_rate, width = speech.RATE, WIDTH

    def __init__(self, weights: Mapping[str, np.ndarray] | None = None,
                 where: str = "codecs/voice.npz", mesh: Mesh | None = None):
        """weights: {published name: array}; None: the package's. mesh: windows are split over its
        data axes; None = one device."""
        self._arrays = read() if weights is None else checked(weights, where)
        self._mesh = mesh or rows.one_device()
        self._params = jax.device_put(_parameters(self._arrays), replicated(self._mesh))

    @property
    def recipe(self) -> dict:
        """How the vector is made, without the weights."""
        return dict(RECIPE)

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights, as a dataset stores them for `from_recipe`."""
        return self._arrays

    def prepared(self, audio_N: np.ndarray) -> np.ndarray:
        """(N,) float samples in [-1, 1] at 16 kHz -> the speech in them, for `many`. TooLittle:
        less than a second."""
        speech_N = speech.prepared(np.asarray(audio_N, np.float32))
        if len(speech_N) < SHORTEST * speech.RATE:
            raise speech.TooLittle("too little speech to tell a voice by", where="the recording",
                                   expected=f"{SHORTEST:g} s of speech",
                                   found=f"{len(speech_N) / speech.RATE:.2f} s, in "
                                   f"{len(audio_N) / speech.RATE:.2f} s of sound",
                                   hint="give a longer recording of the voice")
        return speech_N

    def many(self, speech: Sequence[np.ndarray]) -> np.ndarray:
        """Prepared speech (n_i,) of utterances, of any length above 0 -> (U, 256) of length one;
        their windows go together."""
        means = [vectors_PD.mean(0) for vectors_PD in self.windows(speech)]
        return np.stack([mean_D / np.linalg.norm(mean_D) for mean_D in means])

    def windows(self, speech: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The same -> of each the (P, 256) vectors of its windows, each of length one."""
        found, counts = [], []
        for speech_N in speech:
            starts, samples = partials(len(speech_N))
            mel_TM = power_mel(np.pad(speech_N, (0, max(0, samples - len(speech_N)))))
            found += [(mel_TM[s:s + FRAMES],) for s in starts]
            counts.append(len(starts))
        made = rows.through(functools.partial(_network, self._params), found, self._mesh,
                            most=lambda _: AT_ONCE)
        return np.split(np.stack(made), np.cumsum(counts)[:-1])

    def fit(self, raw_US: np.ndarray, speakers=None) -> "Ge2e":
        """Itself: nothing is fitted."""
        del raw_US, speakers
        return self

    def scale(self, raw_S: np.ndarray) -> np.ndarray:
        """Of length one -> of unit power, as models take it. Any leading axes."""
        return (raw_S * WIDTH**0.5).astype(np.float32)

    def __call__(self, audio_N: np.ndarray) -> np.ndarray:
        """(N,) float samples at 16 kHz -> (256,) float32 of unit power. TooLittle as
        `prepared`."""
        return self.scale(self.many([self.prepared(audio_N)])[0])


def partials(samples: int) -> tuple[range, int]:
    """First frames of the windows in so many samples, and how many samples they reach over. The
    last window is left out where less than LEAST of it is sound, unless it is the only one."""
    frames = -(-(samples + 1) // _HOP)
    starts = range(0, max(1, frames - FRAMES + STEP + 1), STEP)
    if len(starts) > 1 and (samples - starts[-1] * _HOP) / (FRAMES * _HOP) < LEAST:
        starts = starts[:-1]
    return starts, (starts[-1] + FRAMES) * _HOP


def power_mel(audio_N: np.ndarray) -> np.ndarray:
    """(N,) samples at 16 kHz -> (1 + N // 160, 40) power in mel bands; frames are centred, with
    zeros around the sound."""
    padded_N = np.pad(audio_N.astype(np.float32), _FFT // 2)
    frames_TW = np.lib.stride_tricks.sliding_window_view(padded_N, _FFT)[::_HOP]
    bank_MK = mel.filterbank(speech.RATE, _FFT, _BANDS, 0.0, speech.RATE / 2)
    window_W = mel.window_of(_FFT)
    parts = []
    for first in range(0, len(frames_TW), mel.AT_ONCE):
        spectrum_TK = np.fft.rfft(frames_TW[first:first + mel.AT_ONCE] * window_W)
        power_TK = spectrum_TK.real**2 + spectrum_TK.imag**2
        parts.append((power_TK @ bank_MK.T).astype(np.float32))
    return np.concatenate(parts)


def _parameters(state: Mapping[str, np.ndarray]) -> dict:
    layers = [{"input": state[f"lstm.weight_ih_l{k}"].T, "hidden": state[f"lstm.weight_hh_l{k}"].T,
               "bias": state[f"lstm.bias_ih_l{k}"] + state[f"lstm.bias_hh_l{k}"]}
              for k in range(LAYERS)]
    return {"layers": layers, "out": state["linear.weight"].T, "out_bias": state["linear.bias"]}


@jax.jit
def _network(params, frames_PTM: jax.Array, frames_P: jax.Array) -> jax.Array:
    """(P, T, M) mel power, all of them FRAMES long -> (P, D) of length one."""
    del frames_P
    x_TPD = jnp.swapaxes(frames_PTM, 0, 1)
    for layer in params["layers"]:
        x_TPD = _lstm(layer, x_TPD)
    vector_PD = jax.nn.relu(_dot(x_TPD[-1], params["out"]) + params["out_bias"])
    return vector_PD / jnp.linalg.norm(vector_PD, axis=-1, keepdims=True)


def _lstm(layer, x_TPD: jax.Array) -> jax.Array:
    """(T, P, M) -> its states (T, P, D), from zeros; gates in the order input, forget, cell,
    output."""
    gates_TPG = _dot(x_TPD, layer["input"]) + layer["bias"]

    def step(state, gates_PG):
        hidden, cell = state
        i, f, g, o = jnp.split(gates_PG + _dot(hidden, layer["hidden"]), 4, axis=-1)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
        return (hidden, cell), hidden

    zeros_PD = jnp.zeros((x_TPD.shape[1], layer["hidden"].shape[0]))
    return jax.lax.scan(step, (zeros_PD, zeros_PD), gates_TPG, unroll=4)[1]


_dot = functools.partial(jnp.dot, precision=jax.lax.Precision.HIGHEST)
