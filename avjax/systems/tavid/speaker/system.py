"""The Speaker Mapper: portrait (or reference features) and face embedding -> the speaker embedding
of a voice.

Loss: squared error to e_spk, averaged over its numbers. Suffixes: B batch, S speakers, N = B S, H W
size, C channels, F face embedding, D hidden, V voice.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from avjax.encoders.resnet import ResNet
from avjax.fields import plain
from avjax.nn.layers import Dense, compute_dtype, gelu
from avjax.sharding.activations import shard
from avjax.systems import api
from avjax.systems.api import Spec
from avjax.systems.tavid.speaker.config import Config, check
from avjax.systems.tavid.speaker.rows import FRAMES, SpeakerRows

# of red, green and blue, as torchvision's weights want them
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
# the mapper's parameters under a prefix: the ResNet's convolutions and the joining layers are split
# over fsdp
SPEAKER_RULES = (
    (r"resnet/conv_in/conv/kernel", ()),
    (r"resnet/layer\d+_\d+/(conv[12]|skip)/conv/kernel", (None, None, None, "fsdp")),
    (r"resnet/.*/(bias|scale)", ()),
    (r"hidden_\d+/kernel", (None, "fsdp")),
    (r"out/kernel", ("fsdp", None)),
    (r"(hidden_\d+|out)/bias", ()),
)


class SpeakerNet(nn.Module):
    config: Config
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        c = self.config
        width = c.face_dim
        if c.inputs != "none":
            self.resnet = ResNet(c.map_width, tuple(c.widths), tuple(c.blocks), c.stem, c.norm,
                                 self.dtype)
            width += c.widths[-1]
        self.hidden = [Dense(c.hidden, c.hidden if i else width, self.dtype)
                       for i in range(c.layers)]
        self.out = Dense(c.voice_dim, c.hidden)

    def __call__(self, pictures_NHWC, faces_NF):
        """pictures_NHWC: uint8 portraits or a float map, None without; -> (N, V) float32."""
        parts = [faces_NF.astype(jnp.float32)]
        if self.config.inputs != "none":
            parts.insert(0, self.resnet(to_signal(pictures_NHWC, self.config.colours)))
        x_ND = jnp.concatenate(parts, axis=-1)
        for layer in self.hidden:
            x_ND = gelu(layer(x_ND))
        return self.out(x_ND.astype(jnp.float32))


class System(api.System):
    """See avjax.systems.api.System. Holds a frozen config and no arrays."""

    makes = {"generate": ("voices",)}
    param_rules = SPEAKER_RULES

    def __init__(self, config):
        check(config)
        self.config = c = FrozenConfigDict(config)
        self.net = SpeakerNet(c, compute_dtype(c.compute_dtype))
        self.picture = {"pixels": "portraits", "reference": c.map, "none": ""}[c.inputs]
        self.rows = SpeakerRows(self.picture, c.random_frame, c.blur, c.rotation, c.colour,
                                c.degraded, c.face_dropout,
                                c.face_noise)
        self.batch_spec, self.example_spec = specs(c, self.picture)
        self.conditions_spec = {k: v for k, v in self.batch_spec.items() if k != "voices"}
        self.streams_spec = {"voices": self.batch_spec["voices"]}

    def init(self, key):
        """Fresh float32 parameters."""
        c = self.config
        picture = None if not self.picture else jnp.zeros((1, c.size, c.size, c.map_width))
        return self.net.init(key, picture, jnp.zeros((1, c.face_dim)))["params"]

    def apply(self, params, pictures_BSHWC, faces_BSF):
        """-> (B, S, V) float32. Any leading axes."""
        lead = faces_BSF.shape[:-1]
        # there is no time here, but in S7 a mesh that splits it: it splits speakers as well
        if pictures_BSHWC is not None:
            pictures_BSHWC = shard(pictures_BSHWC.reshape(-1, *pictures_BSHWC.shape[len(lead):]),
                                   "rows")
        voices_NV = self.net.apply({"params": params}, pictures_BSHWC,
                                   faces_BSF.reshape(-1, faces_BSF.shape[-1]))
        return shard(voices_NV.reshape(*lead, -1), "batch")

    def loss(self, params, batch, key):
        """Mean squared error, with the cosine beside it. Nothing random is left: rows are degraded
        where they are made."""
        del key
        made = self.apply(params, batch.get(self.picture), batch["faces"])
        true = batch["voices"].astype(jnp.float32)
        loss = jnp.mean(jnp.square(made - true))
        norms = jnp.linalg.norm(made, axis=-1) * jnp.linalg.norm(true, axis=-1)
        return loss, {"loss": loss,
                      "cosine": jnp.mean(jnp.sum(made * true, axis=-1) / jnp.maximum(norms, 1e-6))}

    def conditions(self, example, task=""):
        """Portraits or map, and face embeddings."""
        return {name: np.asarray(example[name]) for name in self.conditions_spec}, 1

    def generate(self, params, conditions, keys, task=""):
        """The voices; nothing random, so `keys` is not read."""
        del keys
        return {"voices": self.apply(params, conditions.get(self.picture), conditions["faces"])}


def specs(c, picture: str) -> tuple[dict[str, Spec], dict[str, Spec]]:
    """batch_spec and example_spec. `latents` are asked for only where a random frame of them is
    trained on."""
    S = c.speakers
    batch = {"faces": Spec(("batch", S, c.face_dim), "float32", "face embedding",
                           recipe=plain(c.faces_recipe), speaker_axis=1),
             "voices": Spec(("batch", S, c.voice_dim), "float32", "speaker embedding",
                            recipe=plain(c.voices_recipe), speaker_axis=1)}
    if picture:
        dtype, meaning = (("uint8", "reference picture") if c.inputs == "pixels"
                          else ("float32", "map of the reference picture"))
        batch[picture] = Spec(("batch", S, c.size, c.size, c.map_width), dtype, meaning,
                              speaker_axis=1)
    if not c.random_frame:
        return batch, batch
    frames = dataclasses.replace(batch[picture], shape=("batch", "time", *batch[picture].shape[1:]),
                                 dtype="float16", meaning="video latents", rate=25.0,
                                 speaker_axis=2)
    return batch, batch | {FRAMES: frames}


def to_signal(pictures, colours: str = "signal"):
    """uint8 -> float32, in [-1, 1] or by ImageNet's statistics; maps stay as they are."""
    if pictures.dtype != jnp.uint8:
        return pictures.astype(jnp.float32)
    if colours == "imagenet":
        return (pictures.astype(jnp.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    return pictures.astype(jnp.float32) / 127.5 - 1
