"""The wav2vec 2.0 family of speech encoders: wav2vec 2.0 (CTC), HuBERT, XLS-R, WavLM. Frozen;
16 kHz in, 50 frames a second.

Baevski et al. 2020 (arXiv:2006.11477); Hsu et al. 2021 (2106.07447); Babu et al. 2021 (2111.09296);
Chen et al. 2022 (2110.13900), which adds a bias to attention (relative_bias.py). Two styles exist:
group norm in the first convolution with post-norm layers (base, HuBERT base), and layer norm in
every convolution with pre-norm layers (XLS-R, the "lv60" models, WavLM large). The published names
are in avjax/encoders/published/wav2vec2.py.

Suffixes: B batch, N samples, T frames, C convolution channels, D width, F feed-forward, H heads, K
width of a head, L layers, V vocabulary.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from avjax.encoders import relative_bias, windows
from avjax.encoders.published.stated import NOTHING, Stated, stated
from avjax.encoders.published.wav2vec2 import import_params
from avjax.errors import UserError
from avjax.nn.attention import attend_by_head
from avjax.nn.layers import gelu
from avjax.sharding import rows
from avjax.sharding.mesh import replicated
from avjax.weights.reader import read_state_dict

SAMPLE_RATE = 16000
CHUNK_SECONDS = 100
CTC_LABELS = "-|ETAOINHSRDLUMWCFGYPBVK'XJQZ"  # column 0 is the CTC blank
SPECIAL_COLUMNS = (1, 2, 3)  # <s>, </s>, <unk> of the 32-way head: dropped to get the 29 labels
PUBLISHED_HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}  # width -> heads


def spelled(logits_TV: np.ndarray) -> str:
    """What CTC logits spell: the strongest letter of each frame, repetitions and then blanks left
    out."""
    runs = (int(k) for k, _ in itertools.groupby(np.argmax(logits_TV, axis=1)))
    return "".join(CTC_LABELS[k] for k in runs if k).replace("|", " ").strip()


@dataclasses.dataclass(frozen=True)
class Wav2Vec2Config:
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    d_ff: int = 3072
    conv_dims: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    conv_norm: str = "group"  # group: first convolution only, over time; layer: all, over channels
    pre_norm: bool = False
    position_kernel: int = 128
    position_groups: int = 16
    vocab_size: int = 0  # 0 = no CTC head
    norm_eps: float = 1e-5
    relative_buckets: int = 0  # of WavLM's attention bias; 0 = none
    relative_distance: int = 800  # frames from which on all are in the last bucket

    def num_frames(self, samples):
        """Frames that `samples` (int or array) give: floor((n - kernel) / stride) + 1, convolution
        by convolution."""
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    def min_samples(self) -> int:
        """Samples that give one frame: the receptive field."""
        samples = 1
        for kernel, stride in reversed(list(zip(self.conv_kernels, self.conv_strides,
                                                strict=True))):
            samples = (samples - 1) * stride + kernel
        return samples


def config_of(params: dict, num_heads: int | None = None,
              found: Stated = NOTHING) -> Wav2Vec2Config:
    """Reads every size off imported parameters; the number of heads, which no shape shows (but
    WavLM's), off what the file states beside them, or off the published sizes."""
    features, layers = params["features"], params["layers"]
    kernels = [features[f"conv_{i}"]["kernel"]
               for i in range(sum(name.startswith("conv") for name in features))]
    num_layers, d_model, d_ff = layers["ffn_in"]["kernel"].shape
    buckets, heads = params["relative_bias"].shape if "relative_bias" in params else (0, None)
    num_heads = num_heads or heads or found.num_heads or PUBLISHED_HEADS.get(d_model)
    if num_heads is None:
        raise UserError("the number of attention heads is unknown",
                        where=f"wav2vec 2.0 weights of width {d_model}",
                        expected=f"a published width: {', '.join(map(str, PUBLISHED_HEADS))}",
                        found=str(d_model),
                        hint="lay the model's config.json beside its weights, or pass num_heads")
    if d_model % num_heads:
        raise UserError("attention heads that do not divide the width", where="wav2vec 2.0 weights",
                        expected=f"a divisor of {d_model}", found=str(num_heads))
    strides = found.conv_strides or Wav2Vec2Config.conv_strides
    if len(strides) != len(kernels):
        raise UserError("a config of another network than the weights", where="conv_feature_layers",
                        expected=f"{len(kernels)} convolutions", found=f"strides {strides}",
                        hint="fetch both again")
    layer_style = "norm_1" in features
    return Wav2Vec2Config(
        d_model=d_model, num_layers=num_layers, num_heads=num_heads,
        d_ff=d_ff, conv_dims=tuple(k.shape[2] for k in kernels),
        conv_kernels=tuple(k.shape[0] for k in kernels),
        conv_strides=strides,
        conv_bias="bias" in features["conv_0"],
        conv_norm="layer" if layer_style else "group",
        pre_norm=layer_style if found.pre_norm is None else found.pre_norm,
        position_kernel=params["position"]["kernel"].shape[0],
        position_groups=d_model // params["position"]["kernel"].shape[1],
        vocab_size=params["lm_head"]["bias"].shape[0] if "lm_head" in params else 0,
        relative_buckets=buckets,
        relative_distance=found.relative_distance or Wav2Vec2Config.relative_distance)


class TimeNorm(nn.Module):
    """GroupNorm with one group a channel, of a convolution of the bare waveform: each channel over
    the valid frames of its own utterance. As the convolution is linear, mean and variance of every
    channel follow from those of the K samples that a frame is made of, and the wide output is
    touched once, when it is scaled."""

    eps: float

    @nn.compact
    def __call__(self, x_BTC, x_BN, conv: dict, stride: int, frames_B):
        """x_BTC: the output of the convolution with parameters `conv`; x_BN: its input."""
        kernel_KC = conv["kernel"][:, 0]
        scale_C = self.param("scale", nn.initializers.ones, (x_BTC.shape[-1],))
        bias_C = self.param("bias", nn.initializers.zeros, (x_BTC.shape[-1],))
        end = (x_BTC.shape[1] - 1) * stride + 1
        patches_BTK = jnp.stack([x_BN[:, k:k + end:stride] for k in range(len(kernel_KC))], -1)
        valid_BT1 = _valid(frames_B, x_BTC.shape[1])[..., None]
        count_B11 = jnp.maximum(frames_B, 1)[:, None, None]
        mean_B1K = jnp.where(valid_BT1, patches_BTK, 0).sum(1, keepdims=True) / count_B11
        # Neighbouring samples of speech are nearly equal: their covariance would lose the high
        # bands, its root does not.
        root_BKK = jnp.linalg.qr(jnp.where(valid_BT1, patches_BTK - mean_B1K, 0), mode="r")
        var_B1C = jnp.square(root_BKK @ kernel_KC).sum(1, keepdims=True) / count_B11
        mean_B1C = mean_B1K @ kernel_KC + conv.get("bias", 0)
        return (x_BTC - mean_B1C) * (jax.lax.rsqrt(var_B1C + self.eps) * scale_C) + bias_C


class Features(nn.Module):
    """Waveform -> frames: seven strided convolutions without padding, so valid frames never see
    padded samples."""

    config: Wav2Vec2Config

    @nn.compact
    def __call__(self, x_BN, lengths_B):
        c = self.config
        x_BTC = x_BN[..., None]
        for i, (dim, kernel, stride) in enumerate(zip(c.conv_dims, c.conv_kernels, c.conv_strides,
                                                      strict=True)):
            conv = nn.Conv(dim, (kernel,), stride, padding="VALID", use_bias=c.conv_bias,
                           name=f"conv_{i}")
            x_BTC = conv(x_BTC)
            lengths_B = (lengths_B - kernel) // stride + 1
            if c.conv_norm == "layer":
                x_BTC = nn.LayerNorm(c.norm_eps, name=f"norm_{i}")(x_BTC)
            elif i == 0:
                x_BTC = TimeNorm(c.norm_eps, name="norm_0")(x_BTC, x_BN, conv.variables["params"],
                                                            stride, lengths_B)
            x_BTC = gelu(x_BTC)
        return x_BTC, lengths_B


class Layer(nn.Module):
    """One transformer layer, pre- or post-norm."""

    config: Wav2Vec2Config

    @nn.compact
    def __call__(self, x_BTD, valid_BT, relative_HR=None):
        """relative_HR: WavLM's bias of every offset (relative_bias.of_offsets)."""
        c = self.config
        attention_norm, ffn_norm = (nn.LayerNorm(c.norm_eps, name=f"{n}_norm")
                                    for n in ("attention", "ffn"))

        def split(y_BTD):
            return y_BTD.reshape(*y_BTD.shape[:2], c.num_heads, -1).transpose(0, 2, 1, 3)

        def heads(y_BTD, name):
            return split(nn.Dense(c.d_model, name=name)(y_BTD))

        def attend(y_BTD):
            bias = {} if relative_HR is None else {
                "relative_HR": relative_HR, "gate_BHT": relative_bias.Gate(name="gate")(
                    split(y_BTD))}
            o_BHTK = attend_by_head(heads(y_BTD, "query"), heads(y_BTD, "key"),
                                    heads(y_BTD, "value"), valid_BT, **bias)
            return nn.Dense(c.d_model,
                            name="out")(o_BHTK.transpose(0, 2, 1, 3).reshape(y_BTD.shape))

        def feed_forward(y_BTD):
            y_BTF = gelu(nn.Dense(c.d_ff, name="ffn_in")(y_BTD))
            return nn.Dense(c.d_model, name="ffn_out")(y_BTF)

        if c.pre_norm:
            x_BTD = x_BTD + attend(attention_norm(x_BTD))
            x_BTD = x_BTD + feed_forward(ffn_norm(x_BTD))
        else:
            x_BTD = attention_norm(x_BTD + attend(x_BTD))
            x_BTD = ffn_norm(x_BTD + feed_forward(x_BTD))
        return x_BTD, x_BTD


class Wav2Vec2(nn.Module):
    """The encoder, with its CTC head when the config has a vocabulary."""

    config: Wav2Vec2Config

    @nn.compact
    def __call__(self, x_BN, lengths_B=None, *, with_layers: bool = False,
                 clock: tuple[int, jax.Array] | None = None) -> dict[str, jax.Array]:
        """x_BN: 16 kHz waveforms, padded behind; lengths_B: valid samples (None = all).

        `clock`: (T, valid frames (B,)), to which the frames of the convolutions are brought before
        the encoder, linearly, the first on the first and the last on the last.

        Returns `last_hidden` (B, T, D), `hidden` (B, T, D): the last layer's raw output, before any
        final norm, `frames` (B,) valid frames, `logits` (B, T, V) with a head, and on request
        `conv_features` (B, T, C), `encoder_in` (B, T, D), `layers` (L, B, T, D): the raw output of
        every layer, before any final norm. Frames behind the valid ones mean nothing; the valid
        ones do not depend on the padding.
        """
        c = self.config
        if lengths_B is None:
            lengths_B = jnp.full(x_BN.shape[:1], x_BN.shape[1])
        x_BTC, frames_B = Features(c, name="features")(x_BN, lengths_B)
        if clock:
            x_BTC, frames_B = _on_clock(x_BTC, frames_B, *clock), clock[1]
        valid_BT = _valid(frames_B, x_BTC.shape[1])
        x_BTD = nn.Dense(c.d_model,
                         name="projection")(nn.LayerNorm(c.norm_eps, name="projection_norm")(x_BTC))
        x_BTD = jnp.where(valid_BT[..., None], x_BTD, 0)
        pad = c.position_kernel // 2
        position_BTD = nn.Conv(c.d_model, (c.position_kernel,),
                               padding=[(pad, pad - 1 + c.position_kernel % 2)],
                               feature_group_count=c.position_groups, name="position")(x_BTD)
        x_BTD = x_BTD + gelu(position_BTD)
        norm = nn.LayerNorm(c.norm_eps, name="norm")
        encoder_in_BTD = x_BTD = x_BTD if c.pre_norm else norm(x_BTD)

        relative_HR = None
        if c.relative_buckets and c.num_layers:
            table_NH = self.param("relative_bias", nn.initializers.normal(0.02),
                                  (c.relative_buckets, c.num_heads))
            relative_HR = relative_bias.of_offsets(table_NH, x_BTD.shape[1], c.relative_distance)

        def body(layer, x_BTD, _):
            x_BTD, out_BTD = layer(x_BTD, valid_BT, relative_HR)
            return x_BTD, out_BTD if with_layers else None

        if c.num_layers:
            scan = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True},
                           length=c.num_layers)
            x_BTD, layers_LBTD = scan(Layer(c, name="layers"), x_BTD, None)
        last_BTD = norm(x_BTD) if c.pre_norm else x_BTD
        out = {"last_hidden": last_BTD, "hidden": x_BTD, "frames": frames_B}
        if c.vocab_size:
            out["logits"] = nn.Dense(c.vocab_size, name="lm_head")(last_BTD)
        if with_layers:
            out |= {"conv_features": x_BTC, "encoder_in": encoder_in_BTD}
            out |= {"layers": layers_LBTD} if c.num_layers else {}
        return out


def _on_clock(x_BTC, frames_B, size: int, wanted_B):
    """(B, size, C): entry k of `wanted` valid ones lies at k (frames - 1) / (wanted - 1)."""
    step_B1 = (frames_B - 1)[:, None] / jnp.maximum(wanted_B - 1, 1)[:, None]
    at_BT = jnp.minimum(jnp.arange(size) * step_B1, (frames_B - 1)[:, None].astype(jnp.float32))
    low_BT = jnp.floor(at_BT).astype(jnp.int32)
    high_BT = jnp.minimum(low_BT + 1, x_BTC.shape[1] - 1)
    share_BT1 = (at_BT - low_BT)[..., None]
    low, high = (jnp.take_along_axis(x_BTC, i[..., None], axis=1) for i in (low_BT, high_BT))
    return low * (1 - share_BT1) + high * share_BT1


class Wav2Vec2CTC:
    """Audio -> character logits, as AV-Flow's tokens are made (specification: raw logits, chunks of
    100 s).

    Frames come at 49.99 a second, not 50: a chunk of 1 600 000 samples gives 4999. Compiles once
    for each of at most 14 lengths; results do not depend on the length it was padded to.
    """

    labels = CTC_LABELS
    frame_rate = 49.99

    def __init__(self, config: Wav2Vec2Config, params: dict, *, normalise: bool = False,
                 mesh: Mesh | None = None):
        """normalise: zero mean and unit variance a chunk (transformers' processor); torchaudio and
        fairseq do not. mesh: batches are split over its data axes; None = one device."""
        if config.vocab_size not in (len(CTC_LABELS), len(CTC_LABELS) + len(SPECIAL_COLUMNS)):
            raise UserError("not the English CTC model", where="lm_head of the wav2vec 2.0 weights",
                            expected="29 or 32 outputs", found=f"{config.vocab_size} outputs",
                            hint="use wav2vec2-base-960h")
        self.config, self.normalise = config, normalise
        keep = [i for i in range(config.vocab_size) if config.vocab_size == 29
                or i not in SPECIAL_COLUMNS]
        head = {k: np.asarray(v)[..., keep] for k, v in params["lm_head"].items()}
        self._mesh = mesh or rows.one_device()
        self._params = jax.device_put({**params, "lm_head": head}, replicated(self._mesh))
        self._network = dataclasses.replace(config, vocab_size=len(CTC_LABELS))

    @classmethod
    def from_checkpoint(cls, path: str, *, num_heads: int | None = None, normalise: bool = False,
                        mesh: Mesh | None = None) -> "Wav2Vec2CTC":
        """From a published file (torchaudio's `wav2vec2_fairseq_base_ls960_asr_ls960.pth`,
        transformers' `model.safetensors`). UserError: unreadable, or of another network."""
        params = import_params(read_state_dict(path), where=str(path))
        if "lm_head" not in params:
            raise UserError("the weights have no CTC head", where=str(path),
                            expected="lm_head or aux", found="none",
                            hint="use the fine-tuned wav2vec2-base-960h, not the pre-trained base")
        return cls(config_of(params, num_heads, stated(path)), params, normalise=normalise,
                   mesh=mesh)

    @property
    def params(self) -> dict:
        """Nested, the head's 29 columns alone."""
        return jax.tree.map(np.asarray, self._params)

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """audio: float32 (n,) at 16 kHz -> float32 (frames, 29) logits. UserError: shorter than one
        frame (25 ms)."""
        return self.many([audio])[0]

    def many(self, audio: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The same of several utterances, chunks of like length together; none depends on the
        others."""
        chunks = [self._chunks(np.asarray(x_N, np.float32)) for x_N in audio]
        run = functools.partial(_logits, self._network, self._params)
        made = iter(rows.through(run, [(x_N,) for some in chunks for x_N in some], self._mesh,
                                 padded=bucket, most=windows.most))
        return [np.concatenate([next(made)[:self.config.num_frames(len(x_N))] for x_N in some])
                for some in chunks]

    def _chunks(self, audio_N: np.ndarray) -> list[np.ndarray]:
        """What is less than a frame at the end is left out."""
        least, size = self.config.min_samples(), CHUNK_SECONDS * SAMPLE_RATE
        if audio_N.ndim != 1 or len(audio_N) < least:
            raise UserError("audio too short for speech tokens", where="audio given to wav2vec 2.0",
                            expected=f"a vector of at least {least} samples at {SAMPLE_RATE} Hz",
                            found=f"shape {audio_N.shape}", hint="leave the clip out")
        found = [audio_N[i:i + size] for i in range(0, len(audio_N), size)]
        found = [x_N for x_N in found if len(x_N) >= least]
        if self.normalise:
            found = [(x_N - x_N.mean()) / np.sqrt(x_N.var() + 1e-7) for x_N in found]
        return found


@functools.partial(jax.jit, static_argnums=0)
def _logits(config: Wav2Vec2Config, params, x_BN, lengths_B):
    with jax.default_matmul_precision("float32"):
        return Wav2Vec2(config).apply({"params": params}, x_BN, lengths_B)["logits"]


@functools.cache
def _buckets() -> tuple[int, ...]:
    seconds = sorted({2 ** i for i in range(7)} | {3 * 2 ** i for i in range(6)} | {CHUNK_SECONDS})
    return tuple(s * SAMPLE_RATE for s in seconds)


def bucket(samples: int) -> int:
    """The length that `samples` is padded to: 1, 2, 3, 4, 6, 8, 12, ... 96, 100 seconds."""
    return next(b for b in _buckets() if b >= samples)


def _valid(lengths_B, size: int):
    return jnp.arange(size) < lengths_B[:, None]
