"""Portrait as a System. Suffixes: B batch, T time, A mel bands, X motion width, D model width."""

from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from avjax.systems.portrait.config import Config, reach
from ml_collections import FrozenConfigDict

from avjax.flow import diffusion
from avjax.systems import api
from avjax.systems.api import Chunk, Spec

SCHEDULE = diffusion.make_schedule()


class PortraitNet(nn.Module):
    """Causal: a frame sees itself and `past` earlier ones in every layer. -> velocity (B, T, X)."""

    config: FrozenConfigDict

    @nn.compact
    def __call__(self, x_BTX, t_B, mel_BTA, mask_BT):
        c, mask_BT1 = self.config, mask_BT[..., None]
        time_B1D = nn.Dense(c.d_model, name="time")(t_B[:, None, None] / SCHEDULE.steps)
        h_BTD = nn.Dense(c.d_model, name="inputs")(jnp.concatenate([x_BTX, mel_BTA], axis=-1))
        h_BTD = (h_BTD + time_B1D) * mask_BT1
        for i in range(c.num_layers):
            wide = nn.silu(nn.Dense(c.d_model, name=f"wide_{i}")(with_past(h_BTD, c.past)))
            h_BTD = (h_BTD + nn.Dense(c.d_model, name=f"narrow_{i}")(wide)) * mask_BT1
        return nn.Dense(x_BTX.shape[-1], name="outputs")(h_BTD)


def with_past(h_BTD, past: int):
    """(B, T, (past + 1) D): every frame beside the `past` before it, zeros before the first."""
    T = h_BTD.shape[1]
    padded = jnp.pad(h_BTD, ((0, 0), (past, 0), (0, 0)))
    return jnp.concatenate([padded[:, i:i + T] for i in range(past + 1)], axis=-1)


class System(api.System):
    """See avjax.systems.api.System."""

    makes = {"generate": ("face", "head")}  # mel is returned as it was given
    param_rules = (
        (r"wide_\d+/kernel", ("fsdp", "tensor")),
        (r"narrow_\d+/kernel", ("tensor", "fsdp")),
        (r"(time|inputs|outputs)/kernel", ()),
        (r".*/bias", ()),
    )

    def __init__(self, config):
        Config.check(config)
        self.config = c = FrozenConfigDict(config)
        self.net = PortraitNet(c)

        def sequence(width, meaning):
            return Spec(("batch", "time", width), "float32", meaning, rate=c.frame_rate)

        self.streams_spec = {"mel": sequence(c.mel_dim, "normalised log-mel of the speech"),
                             "face": sequence(c.face_dim, "expression code"),
                             "head": sequence(c.head_dim, "z-scored head pose")}
        mask = Spec(("batch", "time"), "float32", "1 = real frame, 0 = padding")
        self.example_spec = self.streams_spec
        self.batch_spec = self.streams_spec | {"mask": mask}
        self.conditions_spec = {"mel": self.streams_spec["mel"], "mask": mask}
        self._sample = jax.jit(self.sample)

    def init(self, key):
        """Fresh float32 parameters."""
        c = self.config
        x, mel = jnp.zeros((1, 2, c.face_dim + c.head_dim)), jnp.zeros((1, 2, c.mel_dim))
        return self.net.init(key, x, jnp.zeros(1), mel, jnp.ones((1, 2)))["params"]

    def velocity(self, params, x_BTX, t_B, mel_BTA, mask_BT):
        """The network."""
        return self.net.apply({"params": params}, x_BTX, t_B, mel_BTA, mask_BT)

    def loss(self, params, batch, key):
        """Mean squared error of the velocity, over real frames."""
        keys, mask_BT = jax.random.split(key), batch["mask"]
        x_BTX = jnp.concatenate([batch["face"], batch["head"]], axis=-1)
        t_B = jax.random.randint(keys[0], x_BTX.shape[:1], 0, SCHEDULE.steps)
        noise = jax.random.normal(keys[1], x_BTX.shape)
        noisy = diffusion.q_sample(SCHEDULE, x_BTX, noise, t_B)
        error = (self.velocity(params, noisy, t_B, batch["mel"], mask_BT)
                 - diffusion.velocity_target(SCHEDULE, x_BTX, noise, t_B))
        loss = jnp.sum(jnp.mean(error**2, axis=-1) * mask_BT) / jnp.maximum(jnp.sum(mask_BT), 1)
        return loss, {"loss": loss}

    def conditions(self, example, task=""):
        """The speech."""
        return {"mel": example["mel"]}, len(example["mel"])

    def generate(self, params, conditions, keys, task=""):
        """Streams {mel, face, head}; zeros where the mask is."""
        first = jnp.zeros((), jnp.int32)
        return self.sample(params, conditions["mel"], conditions["mask"], keys, first)

    def sample(self, params, mel_BTA, mask_BT, keys_B, first):
        """The streams of frames `first`, `first` + 1, ...; noise is drawn frame by frame, so that
        neither padding nor chunks change it."""
        c = self.config
        width = c.face_dim + c.head_dim

        def noise(key):
            frames = first + jnp.arange(mel_BTA.shape[1])
            return jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (width,)))(
                frames)

        def predict(x_BTX, t):
            return self.velocity(params, x_BTX, jnp.full(x_BTX.shape[:1], t), mel_BTA, mask_BT)

        x_BTX = diffusion.ddim(predict, jax.vmap(noise)(keys_B), SCHEDULE, c.steps)
        face, head = jnp.split(x_BTX * mask_BT[..., None], [c.face_dim], axis=-1)
        return {"mel": mel_BTA, "face": face, "head": head}

    def can_stream(self, task):
        """Always: nothing looks ahead."""
        return True

    def stream(self, params, prompts, keys, task="") -> Iterator[Chunk]:
        """See avjax.systems.api.System. Each chunk is sampled with the past that it depends on."""
        c, past, first = self.config, reach(self.config), 0
        for prompt in prompts:
            mel, mask = np.asarray(prompt["mel"]), np.asarray(prompt["mask"])
            if not first:
                before = {"mel": np.zeros_like(mel, shape=(len(mel), past, c.mel_dim)),
                          "mask": np.zeros_like(mask, shape=(len(mel), past))}
            for start in range(0, mel.shape[1], c.chunk):
                count = min(c.chunk, mel.shape[1] - start)
                window = {name: np.concatenate([before[name], x[:, start:start + count]], axis=1)
                          for name, x in (("mel", mel), ("mask", mask))}
                before = {name: x[:, -past:] for name, x in window.items()}
                short = c.chunk - count  # one shape is compiled
                window = {name: np.pad(x, ((0, 0), (0, short)) + ((0, 0),) * (x.ndim - 2))
                          for name, x in window.items()}
                made = self._sample(params, window["mel"], window["mask"], keys, first - past)
                first += count
                yield Chunk({name: np.asarray(x[:, past:past + count])
                             for name, x in made.items()}, first / c.frame_rate)
