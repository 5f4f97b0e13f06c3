"""Whisper's encoder: frozen; windows of 16 kHz speech -> features at 50 Hz.

Radford et al. 2022 (arXiv:2212.04356). A window has one length (30 s in every published model);
shorter sound is padded with silence, which is attended to, as published. Longer sound is cut into
windows that overlap; of an overlap, either window gives its half.
Suffixes: B batch, N samples, S mel frames (100 Hz), T features (50 Hz), M mel bands, D width, H
heads, K width of a head.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from avjax.encoders import windows
from avjax.encoders.published.whisper import import_params
from avjax.errors import UserError
from avjax.nn.attention import attend_by_head
from avjax.nn.layers import gelu
from avjax.sharding import rows
from avjax.sharding.mesh import replicated
from avjax.signal import whisper_mel

SAMPLE_RATE = whisper_mel.SAMPLE_RATE
HOP = 2 * whisper_mel.HOP  # samples a feature
HEAD_WIDTH = 64  # of every published model
EPS = 1e-5
OVERLAP = 1 / 6  # of a window: 5 s
_AT_ONCE = 8  # windows, on an accelerator


@dataclasses.dataclass(frozen=True)
class WhisperConfig:
    num_heads: int = 20
    positions: int = 1500  # features of a window
    bands: int = 128

    @property
    def window(self) -> int:
        """Samples."""
        return self.positions * HOP


def config_of(params: dict, num_heads: int | None = None) -> WhisperConfig:
    """Of imported parameters; the heads, which no shape shows, are 64 wide unless they are given.
    UserError: heads that do not divide the width."""
    positions, width = params["positions"].shape
    heads = num_heads or width // HEAD_WIDTH
    if not heads or width % heads:
        raise UserError("the number of Whisper's attention heads is unknown",
                        where=f"Whisper weights of width {width}",
                        expected=f"a multiple of {HEAD_WIDTH}, as published, or the number in "
                                 "config.json", found=f"{num_heads or 'nothing'}",
                        hint="lay the model's config.json beside its weights")
    return WhisperConfig(heads, positions, params["conv1"]["kernel"].shape[1])


def encode(params: dict, config: WhisperConfig, mel_BSM, *, with_layers: bool = False) -> dict:
    """Log-mel of whole windows, S = 2 * positions -> {"out": (B, T, D) after the last norm}, and on
    request what lies on the way: conv1, conv2, encoder_in, layers (L, B, T, D). Pure."""
    conv1_BSD = gelu(_conv(params["conv1"], mel_BSM, 1))
    conv2_BTD = gelu(_conv(params["conv2"], conv1_BSD, 2))
    x_BTD = conv2_BTD + params["positions"]
    all_BT = jnp.ones(x_BTD.shape[:2], bool)

    def layer(x_BTD, p):
        y_BTD = _norm(p["attention_norm"], x_BTD)
        q, k, v = (_dense(p[name], y_BTD).reshape(*y_BTD.shape[:2], config.num_heads, -1).transpose(
            0, 2, 1, 3) for name in ("query", "key", "value"))
        o_BTD = attend_by_head(q, k, v, all_BT).transpose(0, 2, 1, 3).reshape(x_BTD.shape)
        x_BTD = x_BTD + _dense(p["out"], o_BTD)
        y_BTD = gelu(_dense(p["ffn_in"], _norm(p["ffn_norm"], x_BTD)))
        x_BTD = x_BTD + _dense(p["ffn_out"], y_BTD)
        return x_BTD, x_BTD if with_layers else None

    last_BTD, layers = lax.scan(layer, x_BTD, params["layers"])
    out = {"out": _norm(params["norm"], last_BTD)}
    return out | ({"conv1": conv1_BSD, "conv2": conv2_BTD, "encoder_in": x_BTD, "layers": layers}
                  if with_layers else {})


def _conv(p: dict, x_BSD, stride: int):
    return lax.conv_general_dilated(x_BSD, p["kernel"], (stride,), [(1, 1)],
                                    dimension_numbers=("NWC", "WIO", "NWC")) + p["bias"]


def _dense(p: dict, x_BTD):
    return x_BTD @ p["kernel"] + p.get("bias", 0)


def _norm(p: dict, x_BTD):
    centred = x_BTD - x_BTD.mean(-1, keepdims=True)
    scale = lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + EPS)
    return centred * scale * p["scale"] + p["bias"]


@functools.partial(jax.jit, static_argnums=1)
def _features(params, config, audio_BN, length_B):
    del length_B  # silence behind the sound is heard
    with jax.default_matmul_precision("float32"):
        return encode(params, config, whisper_mel.log_mel(audio_BN, config.bands))["out"]


class Whisper:
    """The encoder with its weights. `width`: of a feature."""

    def __init__(self, params: dict, config: WhisperConfig, mesh: Mesh | None = None):
        """mesh: windows are split over its data axes; None = one device."""
        self.config, self._mesh = config, mesh or rows.one_device()
        self.width = params["positions"].shape[1]
        self.params = jax.device_put(params, replicated(self._mesh))

    @classmethod
    def from_state_dict(cls, state: dict[str, np.ndarray], where: str = "",
                        num_heads: int | None = None, mesh: Mesh | None = None) -> "Whisper":
        """Of arrays under OpenAI's or transformers' names. UserError: of another network."""
        params = import_params(state, where)
        return cls(params, config_of(params, num_heads), mesh)

    def __call__(self, audio_N: np.ndarray) -> np.ndarray:
        """(N >= 1,) float32 at 16 kHz -> (ceil(N / 320), D) float32."""
        return self.many([audio_N])[0]

    def many(self, audio: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The same of several, whose windows go together; none depends on the others."""
        cuts = [self._pieces(len(audio_N)) for audio_N in audio]
        found = [(np.float32(audio_N[start:end]),) for audio_N, cut in zip(audio, cuts, strict=True)
                 for start, end in cut]
        function = functools.partial(_features, self.params, self.config)
        made = iter(rows.through(function, found, self._mesh, padded=lambda _: self.config.window,
                                 most=lambda _: rows.at_once(_AT_ONCE)))
        return [windows.joined([next(made) for _ in cut], cut, _num_frames) for cut in cuts]

    def _pieces(self, samples: int) -> list[windows.Piece]:
        window = self.config.window
        if samples <= window:
            return [(0, samples)]
        step = int(window * (1 - OVERLAP)) // HOP * HOP
        last = -(-(samples - window) // HOP) * HOP
        return [(i, i + window) for i in range(0, last, step)] + [(last, samples)]


def _num_frames(samples: int) -> int:
    return -(-samples // HOP)
