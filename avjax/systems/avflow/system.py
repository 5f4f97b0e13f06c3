"""AV-Flow as a System: batches and conditions in, loss and streams out.

Suffixes: B batch, T time, X state width (face + head + mel, in this order), C condition width.
"""

import functools

import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

from avjax.fields import plain
from avjax.flow.guidance import drop_condition, guide
from avjax.flow.path import data_from_velocity, interpolate
from avjax.flow.solvers import euler, uniform_times
from avjax.nn.layers import compute_dtype
from avjax.systems import api
from avjax.systems.api import Spec
from avjax.systems.avflow import streaming
from avjax.systems.avflow.config import check, look_ahead, partner_width, windows
from avjax.systems.avflow.model import AVFlowNet
from avjax.systems.avflow.noise import noise

PARTNER = ("partner_tokens", "partner_expression", "partner_head")


class System(api.System):
    """See avjax.systems.api.System. Holds a frozen config and no arrays."""

    def __init__(self, config):
        check(config)
        self.config = FrozenConfigDict(config)
        self.net = AVFlowNet(self.config, compute_dtype(config.compute_dtype),
                             unroll=not (config.scan_layers or config.remat))
        self.sampler = self.net.clone(unroll=True)
        self.batch_spec, self.conditions_spec, self.streams_spec = specs(self.config)
        self.example_spec = {name: spec for name, spec in self.batch_spec.items() if name != "mask"}

    makes = {"generate": ("mel", "face", "head")}

    # Fully sharded over fsdp on the wider dimension; tensor parallel over heads, hidden units and
    # fusion outputs.
    param_rules = (
        (r"layers/blocks_\w+/qkv/kernel", (None, "fsdp", None, "tensor", None)),
        (r"layers/blocks_\w+/qkv/bias", (None, None, "tensor", None)),
        (r"layers/blocks_\w+/project/kernel", (None, "tensor", "fsdp")),
        (r"layers/blocks_\w+/mlp_in/kernel", (None, "fsdp", "tensor")),
        (r"layers/blocks_\w+/mlp_in/bias", (None, "tensor")),
        (r"layers/blocks_\w+/mlp_out/kernel", (None, "tensor", "fsdp")),
        (r"layers/blocks_\w+/(project|mlp_out)/bias", (None, None)),
        (r"layers/blocks_\w+/(attention|mlp)_adaln/linear/kernel", (None, "fsdp", None, "tensor")),
        (r"layers/blocks_\w+/(attention|mlp)_adaln/linear/bias", (None, None, "tensor")),
        (r"layers/fusion/kernel", (None, "fsdp", "tensor")),
        (r"layers/fusion/bias", (None, "tensor")),
        (r"time_embed/(hidden|out)/kernel", (None, "fsdp")),
        (r"time_embed/(hidden|out)/bias", (None,)),
        # its rows are odd widths (noisy stream, tokens, ...)
        (r"(visual|audio|joint)/inputs/kernel", (None, "fsdp")),
        (r"(visual|audio|joint)/outputs/kernel", ("fsdp", None)),
        (r"(visual|audio|joint)/(inputs|outputs)/bias", (None,)),
    )

    def init(self, key):
        """Fresh float32 parameters."""
        c = self.config
        x = jnp.zeros((1, 2, c.face_dim + c.head_dim + c.mel_dim))
        condition = self.condition({name: jnp.zeros(spec.resolve(batch=1, time=2).shape)
                                    for name, spec in self.conditions_spec.items()})
        mel = jnp.zeros((1, 2, c.mel_dim))
        return self.net.init(key, x, jnp.zeros((1,)), condition, mel_BTA=mel)["params"]

    def condition(self, batch):
        """[tokens; identity; partner's streams] (batch, time, C)."""
        tokens = batch["tokens"]
        parts = [tokens]
        if self.config.identity_dim:
            parts.append(jnp.broadcast_to(batch["identity"][:, None],
                                          (*tokens.shape[:2], self.config.identity_dim)))
        parts += [batch[name] for name in PARTNER if name in self.conditions_spec]
        return jnp.concatenate(parts, axis=-1).astype(jnp.float32)

    def velocity(self, params, x_BTX, t_B, condition_BTC, mask_BT=None, mel_BTA=None):
        """The network itself; `mask` hides padding."""
        segments = None if mask_BT is None else (mask_BT > 0).astype(jnp.int32)
        return self.net.apply({"params": params}, x_BTX, t_B, condition_BTC, segments, mel_BTA)

    def loss(self, params, batch, key):
        """Weighted L1 between the data and the data that the predicted velocity points at. One t
        per example."""
        keys = jax.random.split(key, 3)
        x1_BTX = jnp.concatenate([batch["face"], batch["head"], batch["mel"]],
                                 axis=-1).astype(jnp.float32)
        x0_BTX = jax.random.normal(keys[0], x1_BTX.shape, jnp.float32)
        t_B = jax.random.uniform(keys[1], x1_BTX.shape[:1], jnp.float32)
        condition = self.condition(batch)
        if partner_width(self.config) and self.config.partner_dropout > 0:
            own, partner = jnp.split(condition, [condition.shape[-1] - partner_width(self.config)],
                                     axis=-1)
            partner, _ = drop_condition(keys[2], partner, self.config.partner_dropout)
            condition = jnp.concatenate([own, partner], axis=-1)
        return self.loss_at(params, x0_BTX, x1_BTX, t_B, condition, batch["mask"])

    def loss_at(self, params, x0_BTX, x1_BTX, t_B, condition_BTC, mask_BT):
        """The loss for given noise and times."""
        c = self.config
        xt_BTX = interpolate(x0_BTX, x1_BTX, t_B, c.sigma)
        # the cascade learns from true mel
        mel_BTA = x1_BTX[..., -c.mel_dim:] if c.fusion == "cascaded" else None
        velocity = self.velocity(params, xt_BTX, t_B, condition_BTC, mask_BT, mel_BTA)
        error_BTX = jnp.abs(data_from_velocity(velocity, x0_BTX, c.sigma) - x1_BTX)
        frames = jnp.maximum(jnp.sum(mask_BT), 1.0)
        # mean over real frames and channels of each part
        per_channel_X = jnp.sum(error_BTX * mask_BT[..., None], axis=(0, 1)) / frames
        face, head, mel = jnp.split(per_channel_X, [c.face_dim, c.face_dim + c.head_dim])
        terms = {"face": jnp.mean(face), "head": jnp.mean(head), "mel": jnp.mean(mel)}
        loss = sum(c.loss_weights[name] * term for name, term in terms.items())
        return loss, {"loss": loss, **terms}

    def conditions(self, example, task=""):
        """The features of `conditions_spec`, as they are."""
        return {n: example[n] for n in self.conditions_spec if n != "mask"}, len(example["tokens"])

    def generate(self, params, conditions, keys, task=""):
        """Streams {mel, face, head} for conditions with "mask"; `keys` (batch,), one an example.
        Frames outside the mask come out as zeros."""
        c = self.config
        shape = (conditions["tokens"].shape[1], c.face_dim + c.head_dim + c.mel_dim)
        x0_BTX = c.temperature * noise(keys, shape)
        x1_BTX = self.sample(params, x0_BTX, conditions) * conditions["mask"][..., None]
        face, head, mel = jnp.split(x1_BTX, [c.face_dim, c.face_dim + c.head_dim], axis=-1)
        return {"mel": mel, "face": face, "head": head}

    def can_stream(self, task=""):
        """Every fusion but the cascade."""
        return streaming.can_stream(self.config)

    def look_ahead(self, task=""):
        """Euler steps times the right windows of all blocks."""
        frames = look_ahead(self.config)[0]
        return (frames, self.config.frame_rate) if self.can_stream() else None

    def stream(self, params, prompts, keys, task=""):
        """See avjax.systems.avflow.streaming."""
        return streaming.stream(self, params, prompts, keys, task)

    def sample(self, params, x0_BTX, conditions, steps: int | None = None):
        """The state at t = 1 from given noise: one scan of Euler steps."""
        c = self.config
        condition_BTC = self.condition(conditions)
        mask = conditions.get("mask")
        segments_BT = jnp.ones(x0_BTX.shape[:2],
                               jnp.int32) if mask is None else (mask > 0).astype(jnp.int32)
        steps = steps or c.euler_steps
        per_step = self.step_modulations(params, steps)

        def run(x0_BTX, streams="both", mel_BTA=None):
            def velocity(x_BTX, t, modulations):
                one = functools.partial(self.step_velocity, params, modulations=modulations,
                                        streams=streams)
                return in_time_blocks(one, c.sample_block, windows(c), segments_BT, x_BTX,
                                      condition_BTC, mel_BTA)

            return euler(velocity, x0_BTX, steps, per_step)

        if c.fusion != "cascaded":
            return run(x0_BTX)
        mel_BTA = run(x0_BTX[..., -c.mel_dim:], "audio")
        return jnp.concatenate([run(x0_BTX[..., :-c.mel_dim], "visual", mel_BTA), mel_BTA], axis=-1)

    def step_modulations(self, params, steps: int):
        """Every modulation of every Euler step, (steps, blocks, 1, 2, 3, D) each: all examples
        share the sampler's times."""
        modulations = self.net.apply({"params": params}, uniform_times(steps)[0],
                                     method="modulations")
        return jax.tree.map(lambda m: jnp.moveaxis(m, 1, 0)[:, :, None], modulations)

    def step_velocity(self, params, segments_BT, x_BTX, condition_BTC, mel_BTA=None, *, modulations,
                      streams="both"):
        """The sampler's velocity at a step, with guidance on the partner's streams when the config
        asks for it."""
        def velocity(condition):
            return self.sampler.apply({"params": params}, x_BTX, condition, modulations,
                                      segments_BT, mel_BTA, streams,
                                      method="velocity")

        partner = partner_width(self.config)
        if not partner or self.config.guidance == 1.0:
            return velocity(condition_BTC)
        alone_BTC = condition_BTC.at[..., -partner:].set(0.0)
        return guide(velocity(condition_BTC), velocity(alone_BTC), self.config.guidance)


def in_time_blocks(velocity, block: int, pairs, segments_BT, *streams):
    """velocity(segments, *streams) in blocks of `block` frames, one after the other, with enough
    frames around each that the result is the same: memory then depends on the block, not on the
    length. block = 0: all at once. Streams may be None."""
    T = segments_BT.shape[1]
    if not block or T <= block:
        return velocity(segments_BT, *streams)
    left, right = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    count = -(-T // block)

    def padded(x):
        return jnp.pad(x, ((0, 0), (left, count * block - T + right)) + ((0, 0),) * (x.ndim - 2))

    # outside the sequence: segment 0, hidden
    inputs = jax.tree.map(padded, (segments_BT, *streams))

    def one(i):
        part = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(
            x, i * block, left + block + right, axis=1), inputs)
        return velocity(*part)[:, left:left + block]

    out_NBTX = jax.lax.map(one, jnp.arange(count))
    return jnp.moveaxis(out_NBTX, 0, 1).reshape(out_NBTX.shape[1], count * block, -1)[:, :T]


def specs(c) -> tuple[dict[str, Spec], dict[str, Spec], dict[str, Spec]]:
    """batch_spec, conditions_spec and streams_spec of a config."""
    def sequence(width, meaning, unit="", recipe=None):
        return Spec(("batch", "time", width), "float32", meaning, unit, c.frame_rate, recipe)

    recipe = plain(c.mel_recipe) or None
    streams = {"mel": sequence(c.mel_dim, "normalised log-mel frames", "(x + 5.5366) / 2.1161",
                               recipe),
               "face": sequence(c.face_dim, "expression code", "z-scored"),
               "head": sequence(c.head_dim, "head pose code")}
    conditions = {"tokens": sequence(c.token_dim, "the actor's speech tokens", "logits")}
    if c.identity_dim:
        conditions["identity"] = Spec(("batch", c.identity_dim), "float32", "who speaks")
    for name, width, meaning in (("partner_tokens", c.partner_token_dim,
                                  "the participant's speech tokens"),
                                 ("partner_expression", c.partner_expression_dim,
                                  "the participant's expression"),
                                 ("partner_head", c.partner_head_dim,
                                  "the participant's head rotation")):
        if width:
            conditions[name] = sequence(width, meaning)
    conditions["mask"] = Spec(("batch", "time"), "float32", "1 = real frame, 0 = padding", "",
                              c.frame_rate)
    return {**streams, **conditions}, conditions, streams
