"""LIA-X (Wang et al. 2025): a picture -> identity and 40 numbers of motion, and both -> a picture.

Pure functions of parameters (see layers.py). Pictures are 512 x 512 RGB in [-1, 1]: depth and the
last 4 x 4 convolution fix it.
Suffixes: B batch, H W size, C channels, S style, M motion.
"""

import jax.numpy as jnp

from avjax.codecs.lia_x import layers

SIZE = 512
MOTION = 40
HALVINGS = 7  # 512 -> 4
# published names of the decoder's levels 8, 16, ... 512: first convolution and what follows it
LEVELS = (("conv_512", "flow_512", "rgb_512"),
          *((f"conv{n}", f"flow{n}", f"rgb{n}") for n in range(2, 8)))
DEPTH = 4  # residual blocks of each kind a level


def encode(p, picture_BHWC):
    """(B, 512, 512, 3) -> identity (B, S), motion (B, 40), features of 8, 16, ... 512 pixels."""
    x_BHWC = layers.conv_layer(p, "enc.enc_2r.block1", picture_BHWC)
    features = [x_BHWC]
    for n in range(2, HALVINGS + 1):
        x_BHWC = layers.residual(p, f"enc.enc_2r.block{n}.0", x_BHWC, down=True)
        features.append(x_BHWC)
    x_BHWC = layers.residual(p, "enc.enc_2r.block_512", x_BHWC, down=True)
    identity_BS = layers.conv(x_BHWC, p["enc.enc_2r.block8.weight"], padding=0)[:, 0, 0]
    return identity_BS, layers.linear(p, "enc.enc_r2t.0", identity_BS), features[::-1]


def direct(p, motion_BM):
    """(B, 40) -> (B, S): the orthonormal directions, each as far as the motion says."""
    return jnp.dot(motion_BM, p["dec.direction.Q"].T, precision=layers.PRECISION)


def render(p, style_BS, features):
    """Identity + direct(motion), and the portrait's features -> (B, 512, 512, 3), not clamped."""
    return list(levels(p, style_BS, features))[-1]["rgb"]


def levels(p, style_BS, features):
    """Yields what `render` makes of each level, coarse to fine: rgb, raw, warped, merged."""
    start = p["dec.input.input"]
    x_BHWC = jnp.broadcast_to(start, (len(style_BS), *start.shape[1:]))
    x_BHWC = layers.styled(p, "dec.conv1", x_BHWC, style_BS)
    raw = rgb = branch = None
    for (name, flow, pixels), features_BHWC in zip(LEVELS, features, strict=True):
        x_BHWC = layers.styled(p, f"dec.{name}_1", x_BHWC, style_BS, up=True)
        for n in range(DEPTH):
            x_BHWC = layers.flow_residual(p, f"dec.{name}_2.{n}", x_BHWC, style_BS)
        warped, x_BHWC, raw = layers.to_flow(p, f"dec.{flow}", x_BHWC, style_BS, features_BHWC, raw)
        branch = warped if branch is None else warped + layers.conv_layer(
            p, f"dec.{name}_2_up", branch, up=True)
        for n in range(DEPTH):
            branch = layers.residual(p, f"dec.{name}_2_rgb.{n}", branch)
        rgb = layers.to_rgb(p, f"dec.{pixels}", branch, rgb)
        yield {"rgb": rgb, "raw": raw, "warped": warped, "merged": x_BHWC}
