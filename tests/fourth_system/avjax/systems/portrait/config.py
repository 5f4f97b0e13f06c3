"""Portrait's sizes."""

from ml_collections import ConfigDict

from avjax.errors import UserError


def tiny() -> ConfigDict:
    """What learns on a laptop."""
    c = ConfigDict()
    c.name = "portrait"  # the folder below avjax/systems
    c.mel_dim, c.face_dim, c.head_dim = 80, 16, 7
    c.frame_rate = 22050 / 256
    c.d_model = 32
    c.num_layers = 2
    c.past = 4  # frames that each layer sees beside its own
    c.steps = 3  # DDIM steps of a sample
    c.chunk = 64  # frames of a streamed chunk
    return c


def check(config) -> None:
    """UserError for a config that cannot be built."""
    for name in ("d_model", "num_layers", "past", "steps", "chunk"):
        if config[name] < 1:
            raise UserError("no such size", where=f"config.system.{name}", expected=">= 1",
                            found=str(config[name]))


def reach(config) -> int:
    """Frames of the past that a sampled frame depends on: every layer of every step looks back."""
    return config.steps * config.num_layers * config.past
