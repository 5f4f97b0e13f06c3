"""The text-to-units loss: cross-entropy of every stream's next units, and of the plan where there
is one.

Suffixes: see avjax.systems.tavid.text.model.
"""

import jax
import jax.numpy as jnp

from avjax.systems.tavid.text import plan
from avjax.systems.tavid.text.config import bos, eos, pad


def targets(batch, config):
    """Units of each decoder step and what they count, (B, I, J) both: the first frame after the
    last is EOS in every stream, and after that nothing counts. J runs over the frames of a step,
    over streams within a frame."""
    T, S = batch["units"].shape[1:]
    frame_1T1 = jnp.arange(T)[None, :, None]
    length_B11 = batch["units_length"][:, None, None]
    units_BTS = jnp.where(frame_1T1 < length_B11, batch["units"],
                          jnp.where(frame_1T1 == length_B11, eos(config), pad(config)))
    weight_BTS = jnp.where(frame_1T1 <= length_B11, batch["weight"], 0.0)
    shape = (len(units_BTS), T // config.frames_per_step, config.frames_per_step * S)
    return units_BTS.reshape(shape), weight_BTS.reshape(shape)


def before(units_BIJ, config):
    """The decoder's input: the units of the step before, BOS first."""
    return jnp.pad(units_BIJ, ((0, 0), (1, 0), (0, 0)), constant_values=bos(config))[:, :-1]


def read(net, params, batch, before_BIJ, units_BIJ, length_B, rngs):
    """The text that was read (B, N, E), and the units' logits (B, I, J, V) after `before`; the
    decoder sees `length_B` text ids."""
    text_BNE = net.apply({"params": params}, batch["tokens"], batch["token_speaker"],
                         batch["tokens_length"],
                         method="encode", rngs=rngs)
    hidden_BID = net.apply({"params": params}, before_BIJ, text_BNE, batch["times"], length_B,
                           method="hidden", rngs=rngs)
    return text_BNE, net.apply({"params": params}, hidden_BID, units_BIJ, method="logits")


def entropy(logits_BIJV, units_BIJ):
    """Nats of each unit (B, I, J)."""
    total_BIJ = jax.nn.logsumexp(logits_BIJV, axis=-1)
    own_BIJ = jnp.take_along_axis(logits_BIJV, units_BIJ[..., None], axis=-1)[..., 0]
    return total_BIJ - own_BIJ


def loss(net, params, batch, key, config):
    """Scalar and metrics: "units" nats a unit, "talk" nats a unit outside long silence, "accuracy"
    of the likeliest unit, "end" nats of EOS, "plan" nats a token."""
    units_BIJ, weight_BIJ = targets(batch, config)
    text_key, unit_key, dropout_key = jax.random.split(key, 3)
    has_text_B = jax.random.bernoulli(text_key, 1 - config.text_dropout,
                                      batch["tokens_length"].shape)
    length_B = jnp.where(has_text_B, batch["tokens_length"], 0)
    before_BIJ = before(units_BIJ, config)
    if config.unit_dropout:
        hidden_BIJ = jax.random.bernoulli(unit_key, config.unit_dropout, before_BIJ.shape)
        before_BIJ = jnp.where(hidden_BIJ, pad(config), before_BIJ)
    rngs = {"dropout": dropout_key} if config.dropout else {}
    # the encoder always reads, for its plan; the decoder sees what the dropout leaves
    text_BNE, logits_BIJV = read(net, params, batch, before_BIJ, units_BIJ, length_B, rngs)
    entropy_BIJ = entropy(logits_BIJV, units_BIJ)

    def mean(x, weight):
        return jnp.sum(x * weight) / jnp.maximum(jnp.sum(weight), 1e-6)

    is_end_BIJ = (units_BIJ == eos(config)).astype(jnp.float32)
    talk_BIJ = (weight_BIJ >= 1.0) * (1 - is_end_BIJ)
    total = units = mean(entropy_BIJ, weight_BIJ)
    metrics = {"units": units, "talk": mean(entropy_BIJ, talk_BIJ),
               "end": mean(entropy_BIJ, is_end_BIJ * weight_BIJ),
               "accuracy": mean(jnp.argmax(logits_BIJV, axis=-1) == units_BIJ, talk_BIJ)}
    if config.alignment == "plan":
        real_BN = jnp.arange(batch["tokens"].shape[1]) < batch["tokens_length"][:, None]
        real_BN = real_BN.astype(jnp.float32)
        planned = net.apply({"params": params}, text_BNE, method="plan_logits")
        metrics["plan"] = plan.loss(planned, batch["times"], real_BN)
        total = total + config.plan_weight * metrics["plan"]
    return total, {"loss": total, **metrics}
