"""Every field of a Speaker Mapper with its presets. The paper: reference features through a
ResNet-18 beside a face embedding, L2 to the speaker embedding, and an ablation without the
features. All sizes and rates are ours by choice."""

from ml_collections import ConfigDict

from avjax.encoders.resnet import STEMS
from avjax.errors import UserError

INPUTS = ("pixels", "reference", "none")
NORMS = ("group", "batch")


def base() -> ConfigDict:
    """On portraits of 256 x 256. For VoxCeleb2: batch 256, AdamW 1e-4, weight decay .05, 100 k
    steps."""
    c = ConfigDict()
    c.name = "tavid.speaker"
    # pixels: portraits | reference: a map beside them (latents, or features of the ReferenceNet) |
    # none: the face embedding alone, the paper's ablation
    c.inputs = "pixels"
    c.size = 256  # portraits are size x size; with "reference", the map is (size, size, map_width)
    c.map_width = 3
    c.map = "reference"  # the feature that holds the map
    c.speakers = 2  # of an example; each is a training row
    c.face_dim = 512
    c.voice_dim = 256
    # ResNet-18: avjax/encoders/resnet.py
    c.widths = (64, 128, 256, 512)
    c.blocks = (2, 2, 2, 2)
    c.stem = "image"  # image: a quarter of the size first | map: keep it
    c.norm = "group"  # group | batch, for imported weights
    c.hidden = 1024
    c.layers = 2  # hidden layers after joining
    # training rows
    c.random_frame = False  # with "reference": a random frame of `latents` in place of it
    c.blur = 2.0  # largest deviation of the Gaussian, pixels of the portrait or of the map
    c.rotation = 30.0  # degrees to either side
    c.colour = 0.1  # relative gain and offset of a portrait's channels
    c.degraded = 0.5  # share of rows that are blurred, and share that are rotated
    c.face_dropout = 0.3  # share of rows without face embedding
    c.face_noise = 0.1  # deviation added to it, in its own unit
    # definitions that feature shards must match; None = any
    c.faces_recipe = None
    c.voices_recipe = None
    c.compute_dtype = "auto"  # auto = bfloat16 on TPU and GPU, float32 on CPU
    return c


def tiny() -> ConfigDict:
    """64 x 64 portraits on two CPU cores."""
    c = base()
    c.size, c.face_dim = 64, 64
    c.widths, c.blocks = (16, 32, 64), (1, 1, 1)
    c.hidden = 256
    return c


def on_latents(c: ConfigDict, size: int, width: int) -> ConfigDict:
    """The same on reference latents or features (size, size, width), as the composite has them."""
    c.inputs, c.stem, c.size, c.map_width, c.random_frame = "reference", "map", size, width, c.map == "reference"
    c.blur = c.blur / 4  # a latent position is several pixels
    return c


def check(c) -> None:
    """UserError for what cannot be trained."""
    def need(good: bool, name: str, expected: str):
        if not good:
            raise UserError("Speaker Mapper", where=f"config.system.{name}", expected=expected,
                            found=repr(c[name]))

    need(c.inputs in INPUTS, "inputs", " | ".join(INPUTS))
    need(c.stem in STEMS, "stem", " | ".join(STEMS))
    need(c.norm in NORMS, "norm", " | ".join(NORMS))
    need(len(c.widths) == len(c.blocks) > 0, "blocks", f"{len(c.widths)} numbers, one a width")
    for name in ("size", "map_width", "speakers", "voice_dim", "hidden", "layers"):
        need(c[name] >= 1, name, ">= 1")
    need(c.face_dim >= (c.inputs == "none"), "face_dim", ">= 1 without pictures, else >= 0")
    need(c.inputs != "pixels" or c.map_width == 3, "map_width", "3 for portraits")
    need(not c.random_frame or c.inputs == "reference", "random_frame",
         "False unless inputs is reference")
    for name in ("blur", "rotation", "colour", "face_noise"):
        need(c[name] >= 0, name, ">= 0")
    for name in ("degraded", "face_dropout"):
        need(0 <= c[name] < 1 or name == "degraded" and c[name] == 1, name, "a share")
