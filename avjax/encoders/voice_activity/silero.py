"""Silero VAD 16 kHz: the probability of speech in every 32 ms, with the weights that the package
silero-vad (6.2.3, MIT) carries.

A chunk of 512 samples, with the 64 before it, is reflected by 64 on the right; a stored Fourier
kernel of 256 at stride 128 gives 4 frames of 129 magnitudes; four convolutions of 3 bring them to
one vector of 128; an LSTM cell carries state from chunk to chunk; a linear layer on its rectified
hidden state is the logit. Only the cell depends on the chunks before, so all chunks of a block are
encoded at once; blocks follow each other with the state carried, and memory does not grow with the
recording.

The package holds two networks: silero_vad.jit (its default), silero_vad.onnx and
silero_vad_16k_op15.onnx have the same weights, silero_vad_16k.safetensors has others. The third is
read here.
Suffixes: B channels, K chunks, N samples, F frames, D width.
"""

import functools
import importlib.util
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from avjax.encoders.voice_activity.segments import CHUNK
from avjax.errors import UserError
from avjax.weights.reader import file_sha256, read_checkpoint

PACKAGE, FILE = "silero_vad", "silero_vad_16k_op15.onnx"
INSTALL = "pip install --no-deps silero-vad==6.2.3"  # its dependencies, PyTorch among them, are not
BEFORE = 64  # samples of the chunk before
BLOCK = 1024  # chunks, 33 s, that are encoded at once
_WINDOW, _HOP, _BINS = 256, 128, 129
_STRIDES = (1, 2, 2, 1)  # of the convolutions
# published names without "model." -> ours; the second of each is that of the safetensors file
_NAMES = {"kernel": ("stft.forward_basis_buffer", "stft_conv.weight"),
          **{f"conv{k}.{part}": (f"encoder.{k}.reparam_conv.{part}", f"conv{k + 1}.{part}")
             for k in range(4) for part in ("weight", "bias")},
          **{name: (f"decoder.rnn.{name}", f"lstm_cell.{name}")
             for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
          **{f"out.{part}": (f"decoder.decoder.2.{part}", f"final_conv.{part}")
             for part in ("weight", "bias")}}


def default_weights() -> pathlib.Path:
    """The file in the installed package. UserError, with the command, where there is none."""
    spec = importlib.util.find_spec(PACKAGE)  # does not import it
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = pathlib.Path(folders[0], "data", FILE) if folders else None
    if path is None or not path.is_file():
        raise UserError("no weights of the neural voice activity", where=f"package {PACKAGE}",
                        expected=FILE, found="a package without it" if folders else
                        "no such package", hint=f"{INSTALL}, or --activity=energy")
    return path


@functools.lru_cache(maxsize=4)
def load(weights: str | None = None) -> tuple[dict[str, jax.Array], str]:
    """(parameters, SHA-256 of the file). weights: .onnx or .safetensors; None: the package's.
    UserError: none, or another network's."""
    path = str(weights or default_weights())
    found = {name.removeprefix("model."): array for name, array in read_checkpoint(path).items()}
    state = {}
    for ours, theirs in _NAMES.items():
        name = next((n for n in theirs if n in found), None)
        if name is None:
            raise UserError("not the weights of Silero VAD at 16 kHz", where=path,
                            expected=theirs[0], found=", ".join(list(found)[:3]),
                            hint=f"{FILE} or silero_vad_16k.safetensors of the package silero-vad")
        state[ours] = np.asarray(found[name], np.float32)
    params = {"fourier": state["kernel"][:, 0].T,
              "input": state["weight_ih"].T, "hidden": state["weight_hh"].T,
              "bias": state["bias_ih"] + state["bias_hh"],
              "out": state["out.weight"][0, :, 0], "out_bias": state["out.bias"][0]}
    for k in range(4):  # (out, in, 3) -> (3 in, out): one matrix product a convolution
        params[f"conv{k}"] = np.concatenate(list(state[f"conv{k}.weight"].transpose(2, 1, 0)))
        params[f"conv{k}_bias"] = state[f"conv{k}.bias"]
    return jax.tree.map(jnp.asarray, params), file_sha256(path)


def spectrum(params, chunks_KN: jax.Array) -> jax.Array:
    """(..., BEFORE + CHUNK) samples -> (..., 4, 129) magnitudes."""
    padded = jnp.concatenate([chunks_KN, chunks_KN[..., -2:-BEFORE - 2:-1]], -1)
    frames = (padded.shape[-1] - _WINDOW) // _HOP + 1
    x_FW = jnp.stack([padded[..., k * _HOP:k * _HOP + _WINDOW] for k in range(frames)], -2)
    both = _dot(x_FW, params["fourier"])
    return jnp.sqrt(both[..., :_BINS] ** 2 + both[..., _BINS:] ** 2)


def encode(params, chunks_KN: jax.Array) -> jax.Array:
    """(..., BEFORE + CHUNK) samples -> (..., 128) vectors, one a chunk."""
    x = spectrum(params, chunks_KN)
    for k, stride in enumerate(_STRIDES):
        padded = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (0, 0)])
        taps = [padded[..., t:t + x.shape[-2]:stride, :] for t in range(3)]
        x = jax.nn.relu(_dot(jnp.concatenate(taps, -1), params[f"conv{k}"])
                        + params[f"conv{k}_bias"])
    return x[..., 0, :]


@functools.partial(jax.jit, donate_argnums=1)
def _block(params, state, samples_BN: jax.Array):
    """One block: (B, BEFORE + K CHUNK) samples -> (state after it, (B, K) probabilities)."""
    count = (samples_BN.shape[-1] - BEFORE) // CHUNK
    body = samples_BN[:, BEFORE:].reshape(len(samples_BN), count, CHUNK)
    before = jnp.concatenate([samples_BN[:, None, :BEFORE], body[:, :-1, -BEFORE:]], 1)
    gates_KBD = jnp.swapaxes(_dot(encode(params, jnp.concatenate([before, body], -1)),
                                  params["input"]) + params["bias"], 0, 1)

    def step(state, gates_BD):
        hidden, cell = state
        i, f, g, o = jnp.split(gates_BD + _dot(hidden, params["hidden"]), 4, axis=-1)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
        return (hidden, cell), hidden

    state, hidden_KBD = jax.lax.scan(step, state, gates_KBD, unroll=4)
    logits_KB = (jax.nn.relu(hidden_KBD) * params["out"]).sum(-1) + params["out_bias"]
    return state, jax.nn.sigmoid(logits_KB).T


def _dot(x, w):
    return jnp.dot(x, w, precision=jax.lax.Precision.HIGHEST)


def probabilities(channels_BN: np.ndarray, weights: str | None = None) -> np.ndarray:
    """Probability of speech in each chunk of several channels.

    Args:
      channels_BN: (B, N) float in [-1, 1] or int16 at 16 kHz, all of one length; a memory map is
        read block by block. The last chunk is filled with zeros.

    Returns:
      (B, ceil(N / 512)) float32.
    """
    params, _ = load(weights)
    count, samples = channels_BN.shape
    state = (jnp.zeros((count, 128)), jnp.zeros((count, 128)))
    out = [np.zeros((count, 0), np.float32)]
    for block_BN in _blocks(channels_BN):
        state, found = _block(params, state, block_BN)
        out.append(found)  # not waited for: the next block is cut meanwhile
    return np.concatenate(list(map(np.asarray, out)), -1)[:, :-(-samples // CHUNK)]


def _blocks(channels_BN: np.ndarray) -> Iterator[np.ndarray]:
    """(B, BEFORE + BLOCK CHUNK) float32, each with the samples before it, zeros at both ends."""
    size = BLOCK * CHUNK
    scale = np.float32(1 / 32768 if channels_BN.dtype == np.int16 else 1)
    for start in range(0, channels_BN.shape[1], size):
        block_BN = np.zeros((len(channels_BN), BEFORE + size), np.float32)
        begin = max(0, start - BEFORE)
        piece = channels_BN[:, begin:start + size]
        at = BEFORE - (start - begin)
        block_BN[:, at:at + piece.shape[1]] = piece * scale
        yield block_BN
