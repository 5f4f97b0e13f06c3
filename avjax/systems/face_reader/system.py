"""The face reader as a System: pictures of heads in, the motion code that they were drawn from out.

It is trained once on a dataset of pictures whose motion is known and then kept with the features of
TAVID, so that generated video can be scored. The network is avjax/codecs/face_reader.py. Everything
here is ours by choice.
Suffixes: B batch, P pictures a row, T time, N = B P pictures, H W size, C channels, M motion.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from avjax.codecs.face_reader import ReaderNet
from avjax.errors import UserError
from avjax.fields import plain
from avjax.nn.layers import compute_dtype
from avjax.systems import api
from avjax.systems.api import Rows, Spec
from avjax.systems.face_reader.config import base, check, tiny  # noqa: F401 (users' config files)


class System(api.System):
    """See avjax.systems.api.System. Holds a frozen config and no arrays."""

    makes = {"generate": ("motion",)}
    param_rules = (
        (r"levels_\d+_\d+/(conv[12]/)?kernel", (None, None, None, "fsdp")),
        (r"(inputs|squeeze)/kernel", ()),
        (r"hidden/kernel", ("fsdp", None)),
        (r"out/kernel", ()),
        (r".*/(bias|scale)", ()),
    )

    def __init__(self, config):
        check(config)
        self.config = c = FrozenConfigDict(config)
        self.net = ReaderNet(c, compute_dtype(c.compute_dtype))

        pictures = Spec(("batch", "time", c.size, c.size, 3), "uint8", "pictures of one head",
                        "RGB",
                        recipe=plain(c.pictures_recipe))
        motion = Spec(("batch", "time", c.motion_dim), "float32", "face code and pose",
                      recipe=plain(c.motion_recipe))
        mask = Spec(("batch", "time"), "float32", "1 = real picture, 0 = padding")
        self.example_spec = {"pictures": pictures, "motion": motion}
        row = ("batch", c.pictures_per_row)
        self.batch_spec = {name: dataclasses.replace(spec, shape=(*row, *spec.shape[2:]))
                           for name, spec in self.example_spec.items()}
        self.conditions_spec = {"pictures": pictures, "mask": mask}
        self.streams_spec = {"motion": motion}
        self.rows = ReaderRows(c.pictures_per_row, c.colour, c.soften, c.noise)

    def init(self, key):
        """Fresh float32 parameters."""
        return self.net.init(key, jnp.zeros((1, self.config.size, self.config.size, 3),
                                            jnp.uint8))["params"]

    def loss(self, params, batch, key):
        """Mean squared error of the motion; nothing random is left, pictures are degraded where
        rows are made."""
        del key
        error = self._read(params, batch["pictures"]) - batch["motion"]
        loss = jnp.mean(jnp.square(error))
        return loss, {"loss": loss, "l1": jnp.mean(jnp.abs(error))}

    def conditions(self, example, task=""):
        """The pictures."""
        return {"pictures": example["pictures"]}, len(example["pictures"])

    def generate(self, params, conditions, keys, task=""):
        """The motion that the pictures show; nothing random, so `keys` is not read."""
        del keys
        return {"motion": self._read(params,
                                     conditions["pictures"]) * conditions["mask"][..., None]}

    def _read(self, params, pictures_BPHWC):
        B, P = pictures_BPHWC.shape[:2]
        motion_NM = self.net.apply({"params": params},
                                   pictures_BPHWC.reshape(B * P, *pictures_BPHWC.shape[2:]))
        return motion_NM.reshape(B, P, -1)


@dataclasses.dataclass(frozen=True)
class ReaderRows(Rows):
    """A row is one picture from each of `pictures` equal stretches of an example, in another light,
    softened and with noise."""

    pictures: int
    colour: float
    soften: float
    noise: float

    def build(self, examples: Sequence[Mapping[str, Any]],
              rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One row of `System.batch_spec`."""
        (example,) = examples
        count = len(example["pictures"])
        if not count or len(example["motion"]) != count:
            raise UserError("pictures and motion of an example differ in number",
                            where=f"example {example.get('id', '')!r}",
                            expected="as many of either, at least one",
                            found=f"{count} and {len(example['motion'])}",
                            hint="extract the dataset again")
        at = (np.arange(self.pictures) + rng.random(self.pictures)) / self.pictures * count
        at = np.minimum(at.astype(int), count - 1)
        return {"pictures": self._degraded(example["pictures"][at], rng),
                "motion": example["motion"][at]}

    def _degraded(self, pictures_PHWC, rng):
        x = pictures_PHWC.astype(np.float32)
        P = len(x)
        share = self.soften * rng.random((P, 1, 1, 1), np.float32)
        gain, offset = rng.uniform(-self.colour, self.colour, (2, P, 1, 1, 3)).astype(np.float32)
        x = (1 - share) * x + share * _binomial(_binomial(x, 1), 2)
        x = x * (1 + gain) + 127.5 * (offset - gain)
        # uniform, which is much cheaper to draw than a normal
        noise = rng.integers(0, 256, x.shape, np.uint8)
        width = self.noise * np.float32(12**0.5) * rng.random((P, 1, 1, 1), np.float32)
        x += width * (noise - np.float32(127.5))
        return np.clip(x + 0.5, 0, 255, out=x).astype(np.uint8)


def _binomial(x_NHWC: np.ndarray, axis: int) -> np.ndarray:
    """(1, 2, 1) / 4 along axis 1 or 2; the border is drawn out."""
    y_NHWC = 0.5 * x_NHWC
    y, x = (np.swapaxes(z, 1, axis) for z in (y_NHWC, 0.25 * x_NHWC))
    y[:, 1:] += x[:, :-1]
    y[:, :-1] += x[:, 1:]
    y[:, 0] += x[:, 0]
    y[:, -1] += x[:, -1]
    return y_NHWC
