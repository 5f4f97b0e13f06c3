"""Published Hallo2 state dicts <-> our parameters of the visual nets: name tables, both directions.

Published layouts: a convolution's weight is (out, in, k, k), a Linear's (out, in); keys and values
apart; a GEGLU's first product is [value; gate]. The temporal modules' tables of positions are left
out on import and written on export. What a file has for regions that the config lacks is left out;
what Stable Diffusion's and AnimateDiff's files lack of a denoiser, is not asked for.
"""

import re

import numpy as np

from avjax.errors import UserError
from avjax.systems.tavid.visual.config import REGIONS
from avjax.systems.tavid.visual.unet import plan
from avjax.weights.fold import check_computed
from avjax.weights.layouts import as_is, conv, pointwise, transposed
from avjax.weights.names import gather, scatter

POSITIONS = ".pos_encoder.pe"
MOTION, TEMPORAL = ".audio_modules.", ".motion_modules."  # as published
_OF_REGION = re.compile(r".*\.transformer_blocks\.0\.(attn2_(?P<number>\d)|zero_conv_(?P<name>\w+))"
                        r"\..*")

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

    def motion(self, theirs, ours, regions):
        block = self.transformer(theirs, ours, pointwise)
        for i in (1, 2, 3):
            self.norm(f"{block}.norm{i}", f"{ours}/norm{i}")
        self.attention(f"{block}.attn1", f"{ours}/self_attention")
        for region in regions:
            number = REGIONS.index(region)
            self.attention(f"{block}.attn2_{number}", f"{ours}/attention_{region}")
            self.both(f"{block}.zero_conv_{region}", f"{ours}/zero_{region}", pointwise)
        self.feed_forward(f"{block}.ff", f"{ours}/feed_forward")

    def temporal(self, theirs, ours):
        block = self.transformer(f"{theirs}.temporal_transformer", ours, transposed)
        for i in (0, 1):
            self.norm(f"{block}.norms.{i}", f"{ours}/norm{i + 1}")
            self.attention(f"{block}.attention_blocks.{i}", f"{ours}/attention{i + 1}")
        self.norm(f"{block}.ff_norm", f"{ours}/norm3")
        self.feed_forward(f"{block}.ff", f"{ours}/feed_forward")


def unet_names(config, *, denoiser: bool, motion: bool = True, temporal: bool = True):
    """Rows of the denoiser, or of the reference net; of the denoiser without `motion` and
    `temporal` transformers, where a file has none."""
    down, mid, up = plan(config)
    rows = _Table()
    rows.both("conv_in", "inputs", conv)
    rows.both("time_embedding.linear_1", "time/hidden", transposed)
    rows.both("time_embedding.linear_2", "time/out", transposed)

    def transformers(theirs, j, ours, attention):
        if attention:
            rows.spatial(f"{theirs}.attentions.{j}", f"{ours}/spatial")
            if denoiser and motion:
                rows.motion(f"{theirs}{MOTION}{j}", f"{ours}/motion", config.regions)
        if denoiser and temporal:
            rows.temporal(f"{theirs}{TEMPORAL}{j}", f"{ours}/temporal")

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
    """Published names -> parameters of `Denoiser(config)`: without the motion and the temporal
    transformers where the file has none of them at all. UserError for an entry missing, unfit or
    left over, a config with regions that the file lacks, or other positions."""
    had, wanted = regions_of(state), tuple(config.regions)
    if had and not set(wanted) <= set(had):
        raise UserError("the weights are of another set of regions", where="config.system.unet."
                        "regions", expected=f"some of {', '.join(had)}, which the file has",
                        found=", ".join(wanted), hint="--config with those regions, or the weights "
                        "of all three")
    for name, table in state.items():
        if name.endswith(POSITIONS):
            _check_positions(name, table, config)
    taken = {name: value for name, value in state.items() if not name.endswith(POSITIONS)
             and region_of(name) in (None, *wanted)}
    return gather(taken, unet_names(config, denoiser=True, motion=bool(had),
                                    temporal=any(TEMPORAL in name for name in state)))


def _check_positions(name: str, table: np.ndarray, config) -> None:
    length = table.shape[1] if table.ndim == 3 else 0
    if length < config.temporal_length:
        raise UserError("the weights have positions for fewer frames", where=name,
                        expected=f"config.system.unet.temporal_length = {config.temporal_length}",
                        found=str(table.shape), hint="set temporal_length to the file's, or take "
                        "AnimateDiff's second version")
    check_computed(name, table[0], positions(config.temporal_length, table.shape[2])[0],
                   "sines and cosines in turn")


def region_of(name: str) -> str | None:
    """The region that a published entry is of; None where it is of none."""
    match = _OF_REGION.fullmatch(name)
    if not match or MOTION not in name:
        return None
    return match["name"] or dict(enumerate(REGIONS)).get(int(match["number"]), "another")


def regions_of(state) -> tuple[str, ...]:
    """Those of REGIONS that a denoiser's entries are of, in that order."""
    found = {region_of(name) for name in state}
    return tuple(region for region in REGIONS if region in found)


def export_reference(params, config) -> dict[str, np.ndarray]:
    """The inverse of `import_reference`."""
    return scatter(params, unet_names(config, denoiser=False))


def export_denoiser(params, config) -> dict[str, np.ndarray]:
    """The inverse of `import_denoiser`, with the tables of positions."""
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
