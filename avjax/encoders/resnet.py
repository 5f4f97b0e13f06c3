"""ResNet-18 (He et al. 2016): pictures or feature maps -> one vector. Weights import from
torchvision's names.

Suffixes: N pictures, H W size, C channels.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from avjax.nn.convolutions import Conv, GroupNorm

WIDTHS, BLOCKS = (64, 128, 256, 512), (2, 2, 2, 2)
STEMS = {"image": 7, "map": 3}  # kernel size
GROUP = 8  # channels of a norm group, at least


class ResNet(nn.Module):
    """Basic blocks, halving the size where the width changes.

    stem: "image", 7x7 at stride 2 and a max pool, so a quarter of the size; "map", 3x3 at stride 1,
      for feature maps and latents that are small already.
    norm: "batch", batch norm with the statistics of a published network, which the importer folds
      into the convolution before it; made for imported weights. "group", to train from nothing with
      any batch.
    """

    in_width: int = 3
    widths: Sequence[int] = WIDTHS
    blocks: Sequence[int] = BLOCKS
    stem: str = "image"
    norm: str = "group"
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        kw = dict(norm=self.norm, dtype=self.dtype)
        first = self.stem == "image"
        self.conv_in = NormedConv(self.widths[0], self.in_width, STEMS[self.stem],
                                  2 if first else 1, **kw)
        layers = []
        width = self.widths[0]
        for i, (features, count) in enumerate(zip(self.widths, self.blocks, strict=True)):
            layers.append([BasicBlock(features, width if j == 0 else features,
                                      2 if i and not j else 1, name=f"layer{i + 1}_{j}", **kw)
                           for j in range(count)])
            width = features
        self.layers = layers

    def stages(self, x_NHWC):
        """[after the stem, after layer 1, ...], each (N, h, w, C)."""
        x = nn.relu(self.conv_in(x_NHWC))
        if self.stem == "image":
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        out = [x]
        for layer in self.layers:
            for block in layer:
                x = block(x)
            out.append(x)
        return out

    def __call__(self, x_NHWC):
        """(N, H, W, in_width) normalised input -> (N, widths[-1]) float32, the mean over all
        positions."""
        return jnp.mean(self.stages(x_NHWC)[-1].astype(jnp.float32), axis=(1, 2))


class NormedConv(nn.Module):
    """Convolution and norm."""

    features: int
    in_features: int
    size: int
    stride: int
    norm: str
    dtype: jnp.dtype

    def setup(self):
        # variance 2 / fan_in keeps the size of what passes a rectifier (He et al. 2015)
        self.conv = Conv(self.features, self.in_features, self.size, self.stride, dtype=self.dtype,
                         init_scale=2.0)
        if self.norm == "group":
            self.group = GroupNorm(self.features, max(1, self.features // GROUP))

    def __call__(self, x_NHWC):
        x = self.conv(x_NHWC)
        return self.group(x) if self.norm == "group" else x


class BasicBlock(nn.Module):
    """relu(x + conv(relu(conv(x)))), the skip through a 1x1 convolution where size or width
    change."""

    features: int
    in_features: int
    stride: int
    norm: str
    dtype: jnp.dtype

    def setup(self):
        kw = dict(norm=self.norm, dtype=self.dtype)
        self.conv1 = NormedConv(self.features, self.in_features, 3, self.stride, **kw)
        self.conv2 = NormedConv(self.features, self.features, 3, 1, **kw)
        if self.stride > 1 or self.features != self.in_features:
            self.skip = NormedConv(self.features, self.in_features, 1, self.stride, **kw)

    def __call__(self, x_NHWC):
        x = self.conv2(nn.relu(self.conv1(x_NHWC)))
        return nn.relu(x + (self.skip(x_NHWC) if hasattr(self, "skip") else x_NHWC))
