"""ECAPA-TDNN: frames of speech -> an embedding of who speaks.

Desplanques et al. 2020 (arXiv:2005.07143), as it stands on WavLM for speaker verification (Chen et
al. 2022, arXiv:2110.13900, section 5.2): every convolution is followed by ReLU, then by batch norm;
the three residual blocks follow each other and their outputs are joined; attention sees no global
context. The published network has no mask: here every utterance of a batch gets what it would get
alone, because frames behind its end are zero before each convolution, as padding is.

Suffixes: B batch, T frames, D width of the frames, C channels, E embedding, W a split's width.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

SCALE = 8  # splits of a residual block
DILATIONS = {"layer2": 2, "layer3": 3, "layer4": 4}
_FLOOR = 1e-9  # of a variance
_EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class EcapaConfig:
    channels: int = 512
    top_channels: int = 1536
    squeezed: int = 128
    attention: int = 128
    embedding: int = 256


class Affine(nn.Module):
    """Batch norm with its running statistics folded in."""

    @nn.compact
    def __call__(self, x):
        scale_C = self.param("scale", nn.initializers.ones, x.shape[-1:])
        return x * scale_C + self.param("bias", nn.initializers.zeros, x.shape[-1:])


class Unit(nn.Module):
    """Convolution, ReLU, norm; zero behind the end."""

    channels: int
    kernel: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(self, x_BTC, valid_BT1):
        x_BTC = nn.Conv(self.channels, (self.kernel,), kernel_dilation=self.dilation,
                        name="conv")(x_BTC)
        return Affine(name="norm")(nn.relu(x_BTC)) * valid_BT1


class Block(nn.Module):
    """Res2 with squeeze and excitation."""

    config: EcapaConfig
    dilation: int

    @nn.compact
    def __call__(self, x_BTC, valid_BT1):
        c = self.config
        *parts, last_BTW = jnp.split(Unit(c.channels, name="first")(x_BTC, valid_BT1), SCALE, -1)
        out_BTW, outs = 0.0, []
        for i, part_BTW in enumerate(parts):
            split = Unit(c.channels // SCALE, 3, self.dilation, name=f"split_{i}")
            out_BTW = split(part_BTW + out_BTW, valid_BT1)
            outs.append(out_BTW)
        joined_BTC = jnp.concatenate([*outs, last_BTW], -1)
        y_BTC = Unit(c.channels, name="last")(joined_BTC, valid_BT1)
        mean_B1C = y_BTC.sum(1, keepdims=True) / valid_BT1.sum(1, keepdims=True)
        gate = nn.relu(nn.Dense(c.squeezed, name="squeeze")(mean_B1C))
        return x_BTC + y_BTC * nn.sigmoid(nn.Dense(c.channels, name="excite")(gate))


class Ecapa(nn.Module):
    """(B, T, D) frames and how many of them count (B,) -> (B, E), of no particular length."""

    config: EcapaConfig

    @nn.compact
    def __call__(self, x_BTD, frames_B):
        c = self.config
        valid_BT1 = (jnp.arange(x_BTD.shape[1]) < frames_B[:, None])[..., None].astype(x_BTD.dtype)
        x_BTC = Unit(c.channels, 5, name="layer1")(_normed(x_BTD, valid_BT1), valid_BT1)
        blocks = []
        for name, dilation in DILATIONS.items():
            x_BTC = Block(c, dilation, name=name)(x_BTC, valid_BT1)
            blocks.append(x_BTC)
        top_BTC = nn.relu(nn.Dense(c.top_channels, name="top")(jnp.concatenate(blocks, -1)))
        score_BTC = nn.tanh(nn.Dense(c.attention, name="attention_in")(top_BTC))
        score_BTC = nn.Dense(c.top_channels, name="attention_out")(score_BTC)
        score_BTC = jnp.where(valid_BT1 > 0, score_BTC, -jnp.inf)
        share_BTC = jnp.exp(score_BTC - jax.nn.logsumexp(score_BTC, 1, keepdims=True))
        mean_BC = (share_BTC * top_BTC).sum(1)
        var_BC = (share_BTC * top_BTC**2).sum(1) - mean_BC**2
        pooled = jnp.concatenate([mean_BC, jnp.sqrt(jnp.maximum(var_BC, _FLOOR))], -1)
        return nn.Dense(c.embedding, name="embedding")(Affine(name="norm")(pooled))


def _normed(x_BTD, valid_BT1):
    """Every channel of an utterance to zero mean and unit variance over its frames."""
    count_B11 = valid_BT1.sum(1, keepdims=True)
    x_BTD = (x_BTD - (x_BTD * valid_BT1).sum(1, keepdims=True) / count_B11) * valid_BT1
    var_B1D = (x_BTD**2).sum(1, keepdims=True) / count_B11
    return x_BTD * jax.lax.rsqrt(var_B1D + _EPS)
