"""Published Hallo2 state dicts <-> our parameters of the visual nets: name tables, both directions.

Published layouts: a convolution's weight is (out, in, k, k), a Linear's (out, in); keys and values
apart; a GEGLU's first product is [value; gate]. The temporal modules' tables of positions are left
out on import and written on export.
"""

import numpy as np

from avjax.errors import UserError
from avjax.systems.tavid.visual.unet import plan
from avjax.weights.fold import check_computed
from avjax.weights.layouts import as_is, conv, pointwise, transposed
from avjax.weights.names import gather, scatter

POSITIONS = ".pos_encoder.pe"
REGIONS = ("full", "face", "lip")

geglu = (lambda w: w.T.reshape(w.shape[1], 2, -1)), (lambda k: k.reshape(k.shape[0], -1).T)
pair = (lambda b: b.reshape(2, -1)), (lambda b: b.reshape(-1))


class _Table(list):
    """Rows (published names, our name, layout, layer), as avjax.weights.names wants them."""

    def weight(self, theirs, ours, layout):
        self.append(((f"{theirs}.weight",), ours, layout, None))

    def both(self, theirs, ours, layout, name="kernel"):
        self.weight(theirs, f"{ours}/{name}", layout)
        self.append(((f"{theirs}.bias",), f"{ours}/bias", as_is, None))

    def norm(self, theirs, ours):
        self.both(theirs, ours, as_is, "scale")

    def resnet(self, theirs, ours, skip):
        for i in (1, 2):
            self.norm(f"{theirs}.norm{i}", f"{ours}/norm{i}")
            self.both(f"{theirs}.conv{i}", f"{ours}/conv{i}", conv)
        self.both(f"{theirs}.time_emb_proj", f"{ours}/time", transposed)
        if skip:
            self.both(f"{theirs}.conv_shortcut", f"{ours}/skip", pointwise)

    def attention(self, theirs, ours):
        self.weight(f"{theirs}.to_q", f"{ours}/q/kernel", transposed)
        self.append(((f"{theirs}.to_k.weight", f"{theirs}.to_v.weight"), f"{ours}/kv/kernel",
                     transposed, None))
        self.both(f"{theirs}.to_out.0", f"{ours}/out", transposed)

    def feed_forward(self, theirs, ours):
        self.weight(f"{theirs}.net.0.proj", f"{ours}/inputs/kernel", geglu)
        self.append(((f"{theirs}.net.0.proj.bias",), f"{ours}/inputs/bias", pair, None))
        self.both(f"{theirs}.net.2", f"{ours}/outputs", transposed)

    def transformer(self, theirs, ours, products):
        """What all three have around and at the end of their block."""
        self.norm(f"{theirs}.norm", f"{ours}/norm")
        self.both(f"{theirs}.proj_in", f"{ours}/inputs", products)
        self.both(f"{theirs}.proj_out", f"{ours}/outputs", products)
        return f"{theirs}.transformer_blocks.0"

    def spatial(self, theirs, ours):
        block = self.transformer(theirs, ours, pointwise)
        for i in (1, 2, 3):
            self.norm(f"{block}.norm{i}", f"{ours}/norm{i}")
        self.attention(f"{block}.attn1", f"{ours}/self_attention")
        self.attention(f"{block}.attn2", f"{ours}/face_attention")
        self.feed_forward(f"{block}.ff", f"{ours}/feed_forward")

    def motion(self, theirs, ours):
        block = self.transformer(theirs, ours, pointwise)
        for i in (1, 2, 3):
            self.norm(f"{block}.norm{i}", f"{ours}/norm{i}")
        self.attention(f"{block}.attn1", f"{ours}/self_attention")
        for i, region in enumerate(REGIONS):
            self.attention(f"{block}.attn2_{i}", f"{ours}/attention_{region}")
            self.both(f"{block}.zero_conv_{region}", f"{ours}/zero_{region}", pointwise)
        self.feed_forward(f"{block}.ff", f"{ours}/feed_forward")

    def temporal(self, theirs, ours):
        block = self.transformer(f"{theirs}.temporal_transformer", ours, transposed)
        for i in (0, 1):
            self.norm(f"{block}.norms.{i}", f"{ours}/norm{i + 1}")
            self.attention(f"{block}.attention_blocks.{i}", f"{ours}/attention{i + 1}")
        self.norm(f"{block}.ff_norm", f"{ours}/norm3")
        self.feed_forward(f"{block}.ff", f"{ours}/feed_forward")


def unet_names(config, *, denoiser: bool):
    """Rows of the denoiser, or of the reference net."""
    down, mid, up = plan(config)
    rows = _Table()
    rows.both("conv_in", "inputs", conv)
    rows.both("time_embedding.linear_1", "time/hidden", transposed)
    rows.both("time_embedding.linear_2", "time/out", transposed)

    def transformers(theirs, j, ours, attention):
        if attention:
            rows.spatial(f"{theirs}.attentions.{j}", f"{ours}/spatial")
            if denoiser:
                rows.motion(f"{theirs}.audio_modules.{j}", f"{ours}/motion")
        if denoiser:
            rows.temporal(f"{theirs}.motion_modules.{j}", f"{ours}/temporal")

    for side, resize, blocks in (("down", "downsamplers", down), ("up", "upsamplers", up)):
        for i, block in enumerate(blocks):
            for j, layer in enumerate(block.layers):
                theirs = f"{side}_blocks.{i}"
                ours = f"{side}_{i}/layer_{j}"
                rows.resnet(f"{theirs}.resnets.{j}", f"{ours}/resnet",
                            layer.in_width != layer.width)
                transformers(theirs, j, ours, layer.attention)
            if block.resize:
                rows.both(f"{side}_blocks.{i}.{resize}.0.conv", f"{side}_{i}/resize", conv)
    for j in (0, 1):
        rows.resnet(f"mid_block.resnets.{j}", f"mid/resnet_{j}", False)
    transformers("mid_block", 0, "mid", True)
    if denoiser:
        rows.norm("conv_norm_out", "norm")
        rows.both("conv_out", "outputs", conv)
    return rows


def import_reference(state: dict[str, np.ndarray], config):
    """Published names -> parameters of `ReferenceNet(config)`; what comes after the last layer is
    unused and dropped."""
    unused = ("conv_norm_out.", "conv_out.")
    return gather({k: v for k, v in state.items() if not k.startswith(unused)},
                  unet_names(config, denoiser=False))


def import_denoiser(state: dict[str, np.ndarray], config):
    """Published names -> parameters of `Denoiser(config)`. UserError for an entry missing, unfit or
    left over."""
    _check_regions(config)
    for name, table in state.items():
        if name.endswith(POSITIONS):
            check_computed(name, table[0], positions(config.temporal_length, table.shape[2])[0],
                           "sines and cosines in turn")
    return gather({k: v for k, v in state.items() if not k.endswith(POSITIONS)},
                  unet_names(config, denoiser=True))


def export_reference(params, config) -> dict[str, np.ndarray]:
    """The inverse of `import_reference`."""
    return scatter(params, unet_names(config, denoiser=False))


def export_denoiser(params, config) -> dict[str, np.ndarray]:
    """The inverse of `import_denoiser`, with the tables of positions."""
    _check_regions(config)
    out = scatter(params, unet_names(config, denoiser=True))
    for name in [k for k in out if k.endswith(".to_q.weight") and ".temporal_transformer." in k]:
        width = out[name].shape[1]
        table = positions(config.temporal_length, width)
        out[name.removesuffix(".to_q.weight") + POSITIONS] = table
    return out


def positions(length: int, width: int) -> np.ndarray:
    """(1, length, width) float32: sine and cosine in turn."""
    exponent = np.arange(0, width, 2, dtype=np.float32) * np.float32(-np.log(10000.0) / width)
    # rounded as published, whatever NumPy's float32 does
    step = np.exp(exponent.astype(np.float64)).astype(np.float32)
    angle = (np.arange(length, dtype=np.float32)[:, None] * step).astype(np.float64)
    table = np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    return table.reshape(1, length, width).astype(np.float32)


def _check_regions(config) -> None:
    if tuple(config.regions) != REGIONS:
        raise UserError("other regions than the published network's", where="config.system.regions",
                        expected=str(REGIONS), found=str(tuple(config.regions)))


def locator_names(widths):
    """Rows of `FaceLocator`, whose widths are given."""
    rows = _Table()
    rows.both("conv_in", "inputs", conv)
    for i in range(2 * (len(widths) - 1)):
        rows.both(f"blocks.{i}", f"blocks_{i}", conv)
    rows.both("conv_out", "outputs", conv)
    return rows


def _tokens(rows, theirs, ours, count: int):
    """A product whose outputs are `count` tokens."""
    rows.weight(theirs, f"{ours}/kernel", ((lambda w: w.T.reshape(w.shape[1], count, -1)),
                                           (lambda k: k.reshape(k.shape[0], -1).T)))
    rows.append(((f"{theirs}.bias",), f"{ours}/bias",
                 ((lambda b: b.reshape(count, -1)), (lambda b: b.reshape(-1))), None))


def image_projection_names(tokens: int):
    """Rows of `ImageProjection`."""
    rows = _Table()
    _tokens(rows, "proj", "project", tokens)
    rows.norm("norm", "norm")
    return rows


def audio_projection_names(tokens: int):
    """Rows of `AudioProjection`."""
    rows = _Table()
    rows.both("proj1", "hidden1", transposed)
    rows.both("proj2", "hidden2", transposed)
    _tokens(rows, "proj3", "project", tokens)
    rows.norm("norm", "norm")
    return rows


def import_locator(state: dict[str, np.ndarray], widths):
    """Published names -> parameters of `FaceLocator`."""
    return gather(state, locator_names(widths))


def import_image_projection(state: dict[str, np.ndarray], tokens: int):
    """Published names -> parameters of `ImageProjection`."""
    return gather(state, image_projection_names(tokens))


def import_audio_projection(state: dict[str, np.ndarray], tokens: int):
    """Published names -> parameters of `AudioProjection`."""
    return gather(state, audio_projection_names(tokens))
