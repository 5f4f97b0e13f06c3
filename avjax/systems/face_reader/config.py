"""The fields of a face reader and its presets (see avjax/fields.py); all of it ours by choice."""

from ml_collections import ConfigDict

from avjax.fields import Recipe, Section, field
from avjax.nn import config_fields


class Config(Section):
    name: str = config_fields.system_name("face_reader")
    size: int = field(64, "Pictures are size x size.", minimum=1)
    patch: int = field(4, "Pixels a side that are folded into channels first.", minimum=1)
    widths: tuple[int, ...] = field((32, 64), "Channels of each level; each level but the first "
                                    "halves the size.", minimum=1)
    blocks: tuple[int, ...] = field((1, 1), "Residual blocks of each level.", minimum=0)
    squeeze: int = field(32, "Channels of the last map.", minimum=1)
    hidden: int = field(256, "Width of the layer after it.", minimum=1)
    motion_dim: int = field(23, "Width of the motion: face code and pose.", minimum=1)
    pictures_per_row: int = field(8, "Pictures drawn at random from one example.", minimum=1)
    # What a generator does to pictures is not known beforehand; the reader should bear some of it.
    colour: float = field(0.1, "Largest relative gain and offset of a channel.", minimum=0,
                          maximum=1)
    soften: float = field(1.0, "Largest share of a 3 x 3 binomial blur.", minimum=0, maximum=1)
    noise: float = field(0.02, "Largest deviation of pixel noise, of the full range.", minimum=0,
                         maximum=1)
    motion_recipe: Recipe = field(None, "How the motion must have been made; None = any.")
    pictures_recipe: Recipe = field(None, "How the pictures must have been made; None = any.")
    compute_dtype: str = config_fields.COMPUTE_DTYPE

    @staticmethod
    def relations(c, need):
        need(len(c.widths) == len(c.blocks) > 0, "blocks", f"{len(c.widths)} numbers, one a width")
        need(all(w % 16 == 0 or w < 16 for w in c.widths), "widths",
             "multiples of 16, the size of a norm's group")
        pixels = c.patch * 2 ** (len(c.widths) - 1)
        need(c.size % pixels == 0, "size", f"a multiple of {pixels} (patch and levels)")


def full() -> ConfigDict:
    """Pictures of 256 x 256."""
    return Config.make(
        size=256,
        patch=4,
        widths=(64, 128, 256, 256),
        blocks=(2, 2, 2, 2),
        squeeze=64,
        hidden=512,
    )


def tiny() -> ConfigDict:
    """Pictures of 64 x 64, for two CPU cores."""
    return Config.make()


check = Config.check
base = full  # the name of before, which users' config files call
