"""Portrait's fields and sizes (see avjax/fields.py)."""

from ml_collections import ConfigDict

from avjax.fields import Section, field


class Config(Section):
    name: str = field("portrait", "avjax/systems/portrait.", choices=("portrait",))
    mel_dim: int = field(80, "Mel bands.", minimum=1)
    face_dim: int = field(16, "Width of an expression code.", minimum=1)
    head_dim: int = field(7, "Width of a head pose.", minimum=1)
    frame_rate: float = field(22050 / 256, "Frames a second.", above=0)
    d_model: int = field(128, "Width of the network.", minimum=1)
    num_layers: int = field(4, "Layers.", minimum=1)
    past: int = field(8, "Frames that each layer sees beside its own.", minimum=1)
    steps: int = field(10, "DDIM steps of a sample.", minimum=1)
    chunk: int = field(64, "Frames of a streamed chunk.", minimum=1)


def tiny() -> ConfigDict:
    """What learns on two CPU cores."""
    return Config.make(d_model=32, num_layers=2, past=4, steps=3)


def reach(config) -> int:
    """Frames of the past that a sampled frame depends on: every layer of every step looks back."""
    return config.steps * config.num_layers * config.past
