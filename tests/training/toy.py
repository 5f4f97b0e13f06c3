"""A tiny System and an in-memory loader with the real ones' interfaces."""

import jax
import jax.numpy as jnp
import numpy as np

from avjax.systems import api
from avjax.systems.api import Spec
from configs import base

WIDTH, FRAMES = 8, 6


class ToySystem(api.System):
    """Regression of y on x through one hidden layer, with noise from the step's key when `noise` >
    0."""

    param_rules = ((r"(hidden|out)/kernel", ("fsdp", "tensor")),
                   (r"(hidden|out)/bias", ("tensor",)), (r"scale", ()))

    def __init__(self, config=None, *, noise: float = 0.0, width: int = WIDTH):
        self.noise, self.width = noise, width
        self.batch_spec = {"x": Spec(("batch", "time", WIDTH), "float32", "input"),
                           "y": Spec(("batch", "time", WIDTH), "float32", "target"),
                           "mask": Spec(("batch", "time"), "float32", "1 = real")}

    def init(self, key):
        keys = jax.random.split(key)
        hidden = jax.random.normal(keys[0], (WIDTH, self.width)) / 3
        return {"hidden": {"kernel": hidden, "bias": jnp.zeros(self.width)},
                "out": {"kernel": jax.random.normal(keys[1], (self.width, WIDTH)) / 3,
                        "bias": jnp.zeros(WIDTH)},
                "scale": jnp.ones(())}

    def loss(self, params, batch, key):
        x = batch["x"] + self.noise * jax.random.normal(key, batch["x"].shape)
        h = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
        y = params["scale"] * (h @ params["out"]["kernel"] + params["out"]["bias"])
        mask = batch["mask"]
        error = jnp.sum(jnp.mean((y - batch["y"]) ** 2, -1) * mask) / jnp.sum(mask)
        size = jnp.sum(jnp.mean(y**2, -1) * mask) / jnp.sum(mask)
        return error + 0.01 * size, {"error": error, "size": size}


System = ToySystem


class ToyLoader:
    """Batch k is a function of (seed, k). `spoil` maps a batch index to a function on the batch."""

    def __init__(self, batch_size: int, seed: int = 0, spoil=None):
        self.batch_size, self.seed, self.spoil, self.index = batch_size, seed, spoil or {}, 0

    def __iter__(self):
        return self

    def __next__(self):
        rng = np.random.default_rng((self.seed, self.index))
        x = rng.standard_normal((self.batch_size, FRAMES, WIDTH), np.float32)
        lengths = rng.integers(1, FRAMES + 1, self.batch_size)
        batch = {"x": x, "y": np.tanh(x[..., ::-1]).copy(),
                 "mask": (np.arange(FRAMES) < lengths[:, None]).astype(np.float32),
                 "example": rng.integers(0, 2**32, self.batch_size, dtype=np.uint32)}
        batch = self.spoil.get(self.index, lambda b: b)(batch)
        self.index += 1
        return batch

    def get_state(self):
        return {"next_index": self.index}

    def set_state(self, state):
        self.index = state["next_index"]

    def close(self):
        pass


def config(**overrides):
    """base.get_config() made tiny; keys such as "train.steps"."""
    c = base.get_config()
    c.data.batch_size, c.data.segment = 8, FRAMES
    c.optimizer.learning_rate = 1e-2
    c.train.steps, c.train.log_every, c.train.checkpoint_every, c.train.evaluate_every = 6, 1, 3, 3
    c.train.peak_flops = 1e11
    c.update_from_flattened_dict(overrides)
    return c
