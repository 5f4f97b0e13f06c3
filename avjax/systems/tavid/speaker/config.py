"""The fields of a Speaker Mapper and its presets (see avjax/fields.py).

The paper: reference features through a ResNet-18 beside a face embedding, L2 to the speaker
embedding, and an ablation without the features. All sizes and rates are ours by choice.
"""

from ml_collections import ConfigDict

from avjax.encoders.resnet import STEMS
from avjax.fields import Recipe, Section, field
from avjax.nn import config_fields


class Config(Section):
    name: str = config_fields.system_name("tavid.speaker")
    inputs: str = field("pixels", "Portraits; a map beside them (latents, or features of the "
                        "ReferenceNet); or the face embedding alone, the paper's ablation.",
                        choices=("pixels", "reference", "none"))
    size: int = field(256, "Portraits are size x size; with inputs=reference, the map is (size, "
                      "size, map_width).", minimum=1)
    colours: str = field("signal", "How portraits are scaled: signal, to [-1, 1]; imagenet, by the "
                         "means and deviations that published ResNets were trained with.",
                         choices=("signal", "imagenet"))
    map_width: int = field(3, "Channels of the map.", minimum=1)
    map: str = field("reference", "The feature that holds the map.")
    speakers: int = field(2, "Of an example; each is a training row.", minimum=1)
    face_dim: int = field(512, "Width of a face embedding; 0 = none.", minimum=0)
    voice_dim: int = field(256, "Width of a speaker embedding, the output.", minimum=1)
    widths: tuple[int, ...] = field((64, 128, 256, 512), "Channels of the ResNet's stages "
                                    "(avjax/encoders/resnet.py).", minimum=1)
    blocks: tuple[int, ...] = field((2, 2, 2, 2), "Blocks of its stages.", minimum=1)
    stem: str = field("image", "image: a quarter of the size first; map: the size is kept.",
                      choices=tuple(STEMS))
    norm: str = field("group", "batch is for imported weights.", choices=("group", "batch"))
    hidden: int = field(1024, "Width of the layers after joining.", minimum=1)
    layers: int = field(2, "Hidden layers after joining.", minimum=1)
    # training rows
    random_frame: bool = field(False, "With inputs=reference: a random frame of `latents` in place "
                               "of it.")
    blur: float = field(2.0, "Largest deviation of the Gaussian, in pixels of the portrait or of "
                        "the map.", minimum=0)
    rotation: float = field(30.0, "Largest rotation to either side, in degrees.", minimum=0)
    colour: float = field(0.1, "Largest relative gain and offset of a portrait's channels.",
                          minimum=0)
    degraded: float = field(0.5, "Share of rows that are blurred, and share that are rotated.",
                            minimum=0, maximum=1)
    face_dropout: float = field(0.3, "Share of rows without face embedding.", minimum=0, below=1)
    face_noise: float = field(0.1, "Deviation of the noise on the face embedding, in its own unit.",
                              minimum=0)
    faces_recipe: Recipe = field(None, "How face embeddings must have been made; None = any.")
    voices_recipe: Recipe = field(None, "How speaker embeddings must have been made; None = any.")
    compute_dtype: str = config_fields.COMPUTE_DTYPE

    @staticmethod
    def relations(c, need):
        need(len(c.widths) == len(c.blocks) > 0, "blocks", f"{len(c.widths)} numbers, one a width")
        need(c.face_dim >= (c.inputs == "none"), "face_dim", ">= 1 without pictures, else >= 0")
        need(c.inputs != "pixels" or c.map_width == 3, "map_width", "3 for portraits")
        need(not c.random_frame or c.inputs == "reference", "random_frame",
             "False unless inputs is reference")


def full() -> ConfigDict:
    """On portraits of 256 x 256. For VoxCeleb2: batch 256, AdamW 1e-4, weight decay .05, 100 k
    steps."""
    return Config.make()


def resnet18() -> ConfigDict:
    """On portraits of 512 x 512, with torchvision's ResNet-18 inside."""
    return Config.make(size=512, norm="batch", colours="imagenet")


def tiny() -> ConfigDict:
    """64 x 64 portraits on two CPU cores."""
    return Config.make(
        size=64,
        face_dim=64,
        widths=(16, 32, 64),
        blocks=(1, 1, 1),
        hidden=256,
    )


def on_latents(c: ConfigDict, size: int, width: int) -> ConfigDict:
    """The same on reference latents or features (size, size, width), as the composite has them."""
    c.inputs = "reference"
    c.stem = "map"
    c.size = size
    c.map_width = width
    c.random_frame = c.map == "reference"
    c.blur = c.blur / 4  # a latent position is several pixels
    return c


check = Config.check
base = full  # the name of before, which users' config files call
