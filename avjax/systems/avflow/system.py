"""AV-Flow as a System: batches and conditions in, loss and streams out.

Suffixes: B batch, T time, X state width (face + head + mel, in this order), C condition width.
"""

import functools

import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

from avjax.flow.guidance import drop_condition, guide
from avjax.flow.path import data_from_velocity, interpolate
from avjax.flow.solvers import euler, uniform_times
from avjax.systems.api import Spec
from avjax.systems.avflow.config import check, partner_width
from avjax.systems.avflow.model import AVFlowNet

PARTNER = ("partner_tokens", "partner_expression", "partner_head")


class System:
    """See avjax.systems.api.System. Holds a frozen config and no arrays."""

    def __init__(self, config):
        check(config)
        self.config = FrozenConfigDict(config)
        self.net = AVFlowNet(self.config, compute_dtype(config.compute_dtype))
        self.batch_spec, self.conditions_spec, self.streams_spec = specs(self.config)

    # Fully sharded over fsdp on the wider dimension; tensor parallel over heads, hidden units and fusion outputs.
    param_rules = (
        (r".*/blocks_\d+/qkv/kernel", ("fsdp", None, "tensor", None)),
        (r".*/blocks_\d+/qkv/bias", (None, "tensor", None)),
        (r".*/blocks_\d+/project/kernel", ("tensor", "fsdp")),
        (r".*/blocks_\d+/mlp_in/kernel", ("fsdp", "tensor")),
        (r".*/blocks_\d+/mlp_in/bias", ("tensor",)),
        (r".*/blocks_\d+/mlp_out/kernel", ("tensor", "fsdp")),
        (r".*/blocks_\d+/(project|mlp_out)/bias", (None,)),
        (r".*/blocks_\d+/(attention|mlp)_adaln/linear/kernel", ("fsdp", None, "tensor")),
        (r".*/blocks_\d+/(attention|mlp)_adaln/linear/bias", (None, "tensor")),
        (r"fusion_\d+/kernel", ("fsdp", "tensor")),
        (r"fusion_\d+/bias", ("tensor",)),
        (r"time_embed/(hidden|out)/kernel", (None, "fsdp")),
        (r"time_embed/(hidden|out)/bias", (None,)),
        (r"(visual|audio|joint)/inputs/kernel", (None, "fsdp")),  # its rows are odd widths (noisy stream, tokens, ...)
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

    def condition(self, batch, partner: bool = True):
        """[tokens; identity; partner's streams] (batch, time, C); partner=False puts zeros for the partner."""
        tokens = batch["tokens"]
        parts = [tokens]
        if self.config.identity_dim:
            parts.append(jnp.broadcast_to(batch["identity"][:, None], (*tokens.shape[:2], self.config.identity_dim)))
        for name in PARTNER:
            if name in self.conditions_spec:
                parts.append(batch[name] if partner else jnp.zeros_like(batch[name]))
        return jnp.concatenate(parts, axis=-1).astype(jnp.float32)

    def velocity(self, params, x_BTX, t_B, condition_BTC, mask_BT=None, mel_BTA=None):
        """The network itself; `mask` hides padding."""
        segments = None if mask_BT is None else (mask_BT > 0).astype(jnp.int32)
        return self.net.apply({"params": params}, x_BTX, t_B, condition_BTC, segments, mel_BTA)

    def loss(self, params, batch, key):
        """Weighted L1 between the data and the data that the predicted velocity points at. One t per example."""
        keys = jax.random.split(key, 3)
        x1_BTX = jnp.concatenate([batch["face"], batch["head"], batch["mel"]], axis=-1).astype(jnp.float32)
        x0_BTX = jax.random.normal(keys[0], x1_BTX.shape, jnp.float32)
        t_B = jax.random.uniform(keys[1], x1_BTX.shape[:1], jnp.float32)
        condition = self.condition(batch)
        if partner_width(self.config) and self.config.partner_dropout > 0:
            own, partner = jnp.split(condition, [condition.shape[-1] - partner_width(self.config)], axis=-1)
            partner, _ = drop_condition(keys[2], partner, self.config.partner_dropout)
            condition = jnp.concatenate([own, partner], axis=-1)
        return self.loss_at(params, x0_BTX, x1_BTX, t_B, condition, batch["mask"])

    def loss_at(self, params, x0_BTX, x1_BTX, t_B, condition_BTC, mask_BT):
        """The loss for given noise and times."""
        c = self.config
        xt_BTX = interpolate(x0_BTX, x1_BTX, t_B, c.sigma)
        mel_BTA = x1_BTX[..., -c.mel_dim:] if c.fusion == "cascaded" else None  # the cascade learns from true mel
        velocity = self.velocity(params, xt_BTX, t_B, condition_BTC, mask_BT, mel_BTA)
        error_BTX = jnp.abs(data_from_velocity(velocity, x0_BTX, c.sigma) - x1_BTX)
        frames = jnp.maximum(jnp.sum(mask_BT), 1.0)
        # mean over real frames and channels of each part
        per_channel_X = jnp.sum(error_BTX * mask_BT[..., None], axis=(0, 1)) / frames
        face, head, mel = jnp.split(per_channel_X, [c.face_dim, c.face_dim + c.head_dim])
        terms = {"face": jnp.mean(face), "head": jnp.mean(head), "mel": jnp.mean(mel)}
        loss = sum(c.loss_weights[name] * term for name, term in terms.items())
        return loss, {"loss": loss, **terms}

    def generate(self, params, conditions, keys):
        """Streams {mel, face, head} for conditions with "mask"; `keys` (batch,), one an example. Frames outside the
        mask come out as zeros."""
        c = self.config
        shape = (conditions["tokens"].shape[1], c.face_dim + c.head_dim + c.mel_dim)
        x0_BTX = c.temperature * noise(keys, shape)
        x1_BTX = self.sample(params, x0_BTX, conditions) * conditions["mask"][..., None]
        face, head, mel = jnp.split(x1_BTX, [c.face_dim, c.face_dim + c.head_dim], axis=-1)
        return {"mel": mel, "face": face, "head": head}

    def sample(self, params, x0_BTX, conditions, steps: int | None = None):
        """The state at t = 1 from given noise: one scan of Euler steps."""
        c, apply = self.config, functools.partial(self.net.apply, {"params": params})
        steps = steps or c.euler_steps
        mask = conditions.get("mask")
        segments = None if mask is None else (mask > 0).astype(jnp.int32)
        # every modulation of every step, (steps, 1, 2, 3, D) each: t is the same for all examples
        per_step = jax.tree.map(lambda m: m[:, None], apply(uniform_times(steps)[0], method="modulations"))
        guided = partner_width(c) > 0 and c.guidance != 1.0
        wholes = [self.condition(conditions)] + ([self.condition(conditions, partner=False)] if guided else [])

        def run(x0, streams, mel=None):
            if mel is None and c.fusion == "cascaded":  # the audio pass does not read it
                mel = jnp.zeros((*x0.shape[:2], c.mel_dim))
            embedded = [apply(whole, mel, method="embed_conditions") for whole in wholes]

            def velocity(x, t, modulations):
                parts = [apply(x, e, modulations, segments, streams, method="velocity") for e in embedded]
                return guide(*parts, c.guidance) if guided else parts[0]

            return euler(velocity, x0, steps, per_step)

        if c.fusion != "cascaded":
            return run(x0_BTX, "both")
        mel = run(x0_BTX[..., -c.mel_dim:], "audio")
        return jnp.concatenate([run(x0_BTX[..., :-c.mel_dim], "visual", mel), mel], axis=-1)


def noise(keys, shape):
    """Unit normal (batch, *shape), each example from its own key, and each frame from its own fold of it: an example's
    noise depends neither on its neighbours nor on how far it is padded."""
    def frame(key, i):
        return jax.random.normal(jax.random.fold_in(key, i), shape[1:], jnp.float32)

    return jax.vmap(lambda key: jax.vmap(lambda i: frame(key, i))(jnp.arange(shape[0])))(keys)


def compute_dtype(name: str):
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(name)


def specs(c) -> tuple[dict[str, Spec], dict[str, Spec], dict[str, Spec]]:
    """batch_spec, conditions_spec and streams_spec of a config."""
    def sequence(width, meaning, unit="", recipe=None):
        return Spec(("batch", "time", width), "float32", meaning, unit, c.frame_rate, recipe)

    recipe = c.mel_recipe.as_configdict().to_dict() if c.mel_recipe else None
    streams = {"mel": sequence(c.mel_dim, "normalised log-mel frames", "(x + 5.5366) / 2.1161", recipe),
               "face": sequence(c.face_dim, "expression code", "z-scored"),
               "head": sequence(c.head_dim, "head pose code")}
    conditions = {"tokens": sequence(c.token_dim, "the actor's speech tokens", "logits")}
    if c.identity_dim:
        conditions["identity"] = Spec(("batch", c.identity_dim), "float32", "who speaks")
    for name, width, meaning in (("partner_tokens", c.partner_token_dim, "the participant's speech tokens"),
                                 ("partner_expression", c.partner_expression_dim, "the participant's expression"),
                                 ("partner_head", c.partner_head_dim, "the participant's head rotation")):
        if width:
            conditions[name] = sequence(width, meaning)
    conditions["mask"] = Spec(("batch", "time"), "float32", "1 = real frame, 0 = padding", "", c.frame_rate)
    return {**streams, **conditions}, conditions, streams
