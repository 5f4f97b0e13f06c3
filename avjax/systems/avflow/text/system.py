"""Text to tokens as a System: the symbols of an utterance -> its speech tokens at the mel rate.

Suffixes: B batch, X symbols, T frames, C token width.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from avjax.fields import plain
from avjax.nn.layers import compute_dtype
from avjax.systems import api
from avjax.systems.api import Chunk, Spec
from avjax.systems.avflow.noise import noise
from avjax.systems.avflow.text import objective, sampler
from avjax.systems.avflow.text.config import check, multiple
from avjax.systems.avflow.text.model import TextNet, frames_of, real
from avjax.systems.avflow.text.rows import TextRows, check_symbols


class System(api.System):
    """See avjax.systems.api.System. Holds a frozen config and no arrays."""

    makes = {"generate": ("tokens", "durations")}

    # Fully sharded over fsdp; heads and hidden units over tensor.
    param_rules = (
        (r"encoder/embedding", (None, "fsdp")),
        (r"encoder/layers_\d+/(query|key|value)/kernel", ("fsdp", "tensor", None)),
        (r"encoder/layers_\d+/(query|key|value)/bias", ("tensor", None)),
        (r"(encoder/layers_\d+|decoder/.*blocks_\d+)/(project|mlp_out)/kernel",
         ("tensor", "fsdp")),
        (r"encoder/layers_\d+/conv_in/kernel", (None, "fsdp", "tensor")),
        (r"encoder/layers_\d+/conv_in/bias", ("tensor",)),
        (r"encoder/layers_\d+/conv_out/kernel", (None, "tensor", "fsdp")),
        (r"encoder/(prenet|durations)/convs_\d+/kernel", (None, None, "fsdp")),
        (r"encoder/(prenet/project|mean|durations/project)/kernel", ("fsdp", None)),
        # the U-Net, and the DiT's blocks
        (r"decoder/.*blocks_\d+/qkv/kernel", ("fsdp", None, "tensor", None)),
        (r"decoder/blocks_\d+/qkv/bias", (None, "tensor", None)),
        (r"decoder/.*blocks_\d+/mlp_in/(project/)?kernel", ("fsdp", "tensor")),
        (r"decoder/.*blocks_\d+/mlp_in/((project/)?bias|alpha|beta)", ("tensor",)),
        (r"decoder/blocks_\d+/(attention|mlp)_adaln/linear/kernel", ("fsdp", None, "tensor")),
        (r"decoder/blocks_\d+/(attention|mlp)_adaln/linear/bias", (None, "tensor")),
        (r"decoder/.*conv/kernel", (None, None, "fsdp")),
        (r"decoder/(.*/)?(skip|time|time_in|time_out|inputs|time_embed/\w+)/kernel",
         (None, "fsdp")),
        (r"decoder/outputs/kernel", ("fsdp", None)),
        (r".*/(convs_\d+|conv|conv_out|project(?<!mlp_in/project)|mlp_out|mean|skip|time|time_in"
         r"|time_out|inputs|outputs|time_embed/\w+)/bias", ()),
        (r".*norm(s_\d+)?/(scale|bias)", ()),
    )

    def __init__(self, config):
        check(config)
        self.config = c = FrozenConfigDict(config)
        self.net = TextNet(c, compute_dtype(c.compute_dtype))
        self.example_spec, self.batch_spec, self.conditions_spec, self.streams_spec = specs(c)
        self.rows = TextRows(c.row_symbols, c.row_frames, c.symbols, c.token_dim)

    def init(self, key):
        """Fresh float32 parameters."""
        c = self.config
        T = multiple(c)
        tokens = jnp.zeros((1, T, c.token_dim))
        frames = frames_of(c, jnp.array([T]), T, "alone")
        return self.net.init(key, jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2)), tokens, tokens,
                             jnp.zeros(1), frames)["params"]

    def loss(self, params, batch, key):
        """Duration, prior and flow loss, each with weight 1 (see `objective.losses`)."""
        c = self.config
        time_key, noise_key, drop_key = jax.random.split(key, 3)
        length_B = batch["tokens_length"]
        real_BT = real(length_B, batch["tokens"].shape[1])
        tokens_BTC = (batch["tokens"].astype(jnp.float32) - c.mean) / c.std * real_BT[..., None]
        t_B = jax.random.uniform(time_key, length_B.shape)
        noise_BTC = jax.random.normal(noise_key, tokens_BTC.shape, jnp.float32)
        parts, _ = objective.losses(self.net, params, c, batch | {"tokens": tokens_BTC}, t_B,
                                    noise_BTC, drop_key)
        loss = sum(parts.values())
        return loss, parts | {"loss": loss, "weight": jnp.sum(length_B).astype(jnp.float32)}

    def conditions(self, example, task: str = ""):
        """The symbols, and room for half as much again as the example takes."""
        c = self.config
        symbols = check_symbols(example["symbols"], c.symbols,
                                f"example {example.get('id', '')!r}")
        room = int(1.5 * c.length_scale * len(example["tokens"])) + multiple(c)
        return {"symbols": symbols, "symbols_length": np.int32(len(symbols)),
                "room": np.zeros(room, np.int32)}, room

    def generate(self, params, conditions, keys, task: str = ""):
        """{"tokens" (B, T, C) raw, zeros after "tokens_length" (B,), "durations" (B, X) of symbols
        in frames}; T is that of the condition "room", at which longer answers are cut (`steps`
        makes room for all of them)."""
        room = conditions["room"].shape[1]
        T = -(-room // multiple(self.config)) * multiple(self.config)
        mean_BXC, durations_BX, frames_B = self.encode(params, conditions)
        frames_B = jnp.minimum(frames_B, room)
        tokens_BTC = self.decode(params, mean_BXC, durations_BX, frames_B, keys, T)
        return {"tokens": tokens_BTC[:, :room], "tokens_length": frames_B,
                "durations": durations_BX, "durations_length": conditions["symbols_length"]}

    def steps(self, task: str):
        """`generate` with the room that the durations ask for, known after the encoder."""
        return self._in_two

    def _in_two(self, params, conditions, keys) -> Iterator[Chunk]:
        mean_BXC, durations_BX, frames_B = self._encode(params, conditions)
        count = int(frames_B[0])
        T = api.bucket(count, 16 * multiple(self.config))
        tokens_BTC = self._decode(params, mean_BXC, durations_BX, frames_B, keys, T)
        yield Chunk({"tokens": tokens_BTC[:, :count], "tokens_length": np.asarray(frames_B),
                     "durations": np.asarray(durations_BX),
                     "durations_length": np.asarray(conditions["symbols_length"])},
                    count / self.config.frame_rate)

    @functools.cached_property
    def _encode(self):
        return jax.jit(self.encode)

    @functools.cached_property
    def _decode(self):
        return jax.jit(self.decode, static_argnums=5)

    def encode(self, params, conditions):
        """See `sampler.encode`."""
        return sampler.encode(self.net, params, self.config, jnp.asarray(conditions["symbols"]),
                              jnp.asarray(conditions["symbols_length"]))

    def decode(self, params, mean_BXC, durations_BX, frames_B, keys, frames: int):
        """See `sampler.decode`; noise by the examples' keys, so that padding only appends to it."""
        return sampler.decode(self.net, params, self.config, mean_BXC, durations_BX, frames_B,
                              noise(keys, (frames, self.config.token_dim)))


def specs(c) -> tuple[dict[str, Spec], ...]:
    """example_spec, batch_spec, conditions_spec and streams_spec of a config."""
    def symbols(size, sequence=None):
        return Spec(("batch", size), "int32", "ids of symbols of speech, blanks between them",
                    recipe=plain(c.symbols_recipe), sequence=sequence)

    def tokens(size, sequence=None):
        return Spec(("batch", size, c.token_dim), "float32", "speech tokens", "", c.frame_rate,
                    plain(c.tokens_recipe), sequence=sequence)

    def length(what):
        return Spec(("batch",), "int32", f"{what} that exist")

    example = {"symbols": symbols("symbols"), "tokens": tokens("time")}
    batch = {"symbols": symbols(c.row_symbols, 1), "symbols_length": length("symbols"),
             "tokens": tokens(c.row_frames, 1), "tokens_length": length("tokens")}
    conditions = {"symbols": symbols("symbols"), "symbols_length": length("symbols"),
                  "room": Spec(("batch", "time"), "int32",
                               "frames there is room for; values are not looked at")}
    durations = Spec(("batch", "symbols"), "float32", "how long each symbol lasts", "frames")
    return example, batch, conditions, {
        "tokens": tokens("time"), "tokens_length": length("tokens"), "durations": durations,
        "durations_length": length("symbols")}
