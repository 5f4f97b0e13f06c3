"""Talker-T2AV's objective: flow matching on every patch of a batch of packed rows at once, and the
stop loss.

Suffixes: B rows, J patch slots, K repeats, P frames a patch, C stream width, D model width, U
utterances of a row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from avjax.flow.path import between, expand
from avjax.nn.alignment import Labels, forward_sum
from avjax.nn.sequence import take_at
from avjax.sharding.activations import shard
from avjax.systems.talker.model import SPELLED, arrange, per_utterance

IGNORED = -100  # stop label of slots outside the loss


class Target(NamedTuple):
    """One modality at every patch slot.

    x1_BJPC: the data. context_BJPC: the patch before it, zeros before the first. global_BJS: the
    voice, or the first motion frame. mask_BJ: float32, 1 where there is a target.
    """

    x1_BJPC: jax.Array
    context_BJPC: jax.Array
    global_BJS: jax.Array
    mask_BJ: jax.Array


def targets(row, hidden_BND, config):
    """Inputs and targets of the diffusion heads at every patch slot.

    Slot j holds the speech patch j of its utterance and, `delay` patches late, the motion patch
    j - delay; both are predicted from the hidden state one position earlier.

    Returns {"mu": (B, J, D), "speech": Target, "motion": Target}. An utterance with a single patch
    of a modality has no target of it.
    """
    slots = arrange(row, config.delay)
    J, U = row["patch_slot"].shape[1], row["speaker"].shape[1]
    before_BJ = jnp.clip(row["patch_slot"] - 1, 0, hidden_BND.shape[1] - 1)
    mu_BJD = take_at(hidden_BND, before_BJ)
    utterance_BJ = jnp.clip(row["patch_segment"] - 1, 0, U - 1)
    # its first motion patch
    start_BJ = jnp.clip(jnp.arange(J) - row["patch_index"] + config.delay, 0, J - 1)
    speaker = jnp.take_along_axis(row["speaker"], utterance_BJ[..., None], axis=1)
    first = take_at(slots["motion"][:, :, 0], start_BJ)

    def stream(name, global_BJS):
        x1_BJPC = slots[name].astype(jnp.float32)
        previous = jnp.pad(x1_BJPC, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :J]
        context_BJPC = jnp.where((row["patch_index"] > 0)[..., None, None], previous, 0.0)
        present_BJ = (slots[f"{name}_valid"] > 0).astype(jnp.int32)
        enough_BJ = per_utterance(present_BJ, row["patch_segment"], U) > 1
        return Target(x1_BJPC, context_BJPC, global_BJS,
                      (present_BJ * enough_BJ).astype(jnp.float32))

    return {"mu": mu_BJD, "speech": stream("audio", speaker), "motion": stream("motion", first)}


def stop_labels(row, config):
    """(B, J) int32: 0 = continue, 1 = the utterance's last patch, IGNORED; and the weight of the
    positives (scalar).

    The last patch is that of the last slot, as published, or with `stop_on` = "speech" the last
    patch of speech: motion lags, and no slot that a sampler has sampled speech in shows that the
    speech is over. The patches just before the last are ignored; utterances longer than
    `stop_max_patches`, or as long as clips are cut to, only say "continue".
    """
    real_BJ = row["patch_segment"] > 0
    if config.stop_on == "speech":
        real_BJ = real_BJ & (row["audio_valid"] > 0)
    count_BJ = per_utterance(real_BJ.astype(jnp.int32), row["patch_segment"],
                             row["speaker"].shape[1])
    left_BJ = count_BJ - 1 - row["patch_index"]  # patches after this one
    # equal in the release
    longest = min(config.stop_max_patches, -(-config.max_frames // config.patch) - 1)
    stops_BJ = real_BJ & (count_BJ <= longest)
    labels = jnp.where(left_BJ == 0, 1, jnp.where(left_BJ <= config.stop_ignore, IGNORED, 0))
    labels = jnp.where(stops_BJ, labels, jnp.where(real_BJ, 0, IGNORED)).astype(jnp.int32)
    positives = jnp.sum(labels == 1)
    negatives = jnp.sum((labels == 0) & stops_BJ)
    mean = jnp.where(positives > 0, negatives / jnp.maximum(positives, 1), 1.0)
    return labels, (config.stop_positive_weight * mean).astype(jnp.float32)


def stop_loss(logits_BJ, labels_BJ, weight):
    """Weighted binary cross-entropy over the labelled slots, and the accuracy there."""
    labelled_BJ = (labels_BJ != IGNORED).astype(jnp.float32)
    positive_BJ = labels_BJ == 1
    logits_BJ = jnp.where(labelled_BJ > 0, logits_BJ.astype(jnp.float32), 0.0)
    loss_BJ = jnp.where(positive_BJ, weight * jax.nn.softplus(-logits_BJ),
                        jax.nn.softplus(logits_BJ))
    right_BJ = (logits_BJ > 0) == positive_BJ
    count = jnp.maximum(jnp.sum(labelled_BJ), 1.0)
    return jnp.sum(loss_BJ * labelled_BJ) / count, jnp.sum(right_BJ * labelled_BJ) / count


def draw(key, config, batch: int, patches: int):
    """All randomness of the objective, float32: for each modality noise "z" (B,J,K,P,C), times "t"
    (B,J,K), and what is kept of the hidden state and of the context ("mu", "context": (B,J,K) zeros
    and ones). With joint heads both modalities of a slot share t and the hidden state's fate, as
    they do in the sampler."""
    shape = (batch, patches, config.repeats)

    def one(key, width):
        keys = jax.random.split(key, 4)
        t = jax.nn.sigmoid(config.time_mean + config.time_std
                           * jax.random.normal(keys[1], shape, jnp.float32))
        return {"z": jax.random.normal(keys[0], (*shape, config.patch, width), jnp.float32), "t": t,
                "mu": jax.random.bernoulli(keys[2], 1 - config.hidden_dropout,
                                           shape).astype(jnp.float32),
                "context": jax.random.bernoulli(keys[3], 1 - config.context_dropout,
                                                shape).astype(jnp.float32)}

    speech_key, motion_key = jax.random.split(key)
    noise = {"speech": one(speech_key, config.audio_dim),
             "motion": one(motion_key, config.motion_dim)}
    if config.coupling == "joint":
        noise["motion"] |= {name: noise["speech"][name] for name in ("t", "mu")}
    return noise


def head_inputs(mu_BJD, target: Target, noise):
    """(x, t, mu, context, global) of one modality for its head, each (B, J, K, ...). Time runs from
    data at 0 to noise at 1."""
    x = between(target.x1_BJPC[:, :, None], noise["z"], expand(noise["t"], 5))
    mu = mu_BJD[:, :, None] * noise["mu"][..., None].astype(mu_BJD.dtype)
    context = target.context_BJPC[:, :, None] * noise["context"][..., None, None]
    wide = target.global_BJS[:, :, None]
    wide = jnp.broadcast_to(wide, (*noise["t"].shape, wide.shape[-1]))
    return tuple(shard(a, "batch", "time") for a in (x, noise["t"], mu, context, wide))


def flow_loss(velocity_BJKPC, target: Target, noise):
    """Mean squared error of the velocity z - x1 over the targets there are; zero when there is
    none."""
    error = jnp.square(velocity_BJKPC - (noise["z"] - target.x1_BJPC[:, :, None]))
    error_BJ = jnp.where(target.mask_BJ > 0, jnp.mean(error, axis=(2, 3, 4)), 0.0)
    return jnp.sum(error_BJ) / jnp.maximum(jnp.sum(target.mask_BJ), 1.0)


def velocities(net, params, target, noise):
    """{"speech", "motion"}: (B, J, K, P, C) of both heads."""
    speech, motion = (head_inputs(target["mu"], target[name], noise[name])
                      for name in ("speech", "motion"))
    if net.config.coupling == "joint":
        has = [jnp.broadcast_to(target[name].mask_BJ[..., None] > 0, noise[name]["t"].shape)
               for name in ("speech", "motion")]
        return dict(zip(("speech", "motion"), net.apply({"params": params}, speech, motion, *has,
                                                        method="velocities_joint"), strict=True))
    return {"speech": net.apply({"params": params}, *speech, method="speech_velocity"),
            "motion": net.apply({"params": params}, *motion, method="motion_velocity")}


def spelling_loss(net, params, row, mu_BJD):
    """How unlikely the hidden states before the patches of speech are to spell the prompt in order
    (`forward_sum`), a mean over parts of frames."""
    label_BFN = net.apply({"params": params}, mu_BJD, row["tokens"], method="spelled")
    parts = jnp.arange(SPELLED * net.config.patch)
    exists_BJF = parts < SPELLED * row["audio_valid"][..., None]
    frame_BF = jnp.where(exists_BJF, row["patch_segment"][..., None], 0)
    loss, count = forward_sum(label_BFN, frame_BF.reshape(label_BFN.shape[:2]), labels_of(row))
    return loss / jnp.maximum(count, 1.0)


def regression_loss(patches_BJPC, target: Target):
    """Mean squared error of patches over the targets there are."""
    error_BJ = jnp.mean(jnp.square(patches_BJPC - target.x1_BJPC), axis=(2, 3))
    return jnp.sum(error_BJ * target.mask_BJ) / jnp.maximum(jnp.sum(target.mask_BJ), 1.0)


def labels_of(row) -> Labels:
    """The prompts of packed rows: what is neither an utterance's first position nor a slot."""
    segment_BN = row["segment"]
    slots_BN = jnp.any(row["patch_slot"][..., None] == jnp.arange(segment_BN.shape[1]), axis=1)
    return Labels(segment_BN, (segment_BN > 0) & (row["position"] > 0) & ~slots_BN)


def loss_at(net, params, row, noise, config):
    """The loss of given rows at given noise (of `draw`) -> scalar, metrics."""
    hidden = net.apply({"params": params}, row, method="encode_row")
    target = targets(row, hidden, config)
    velocity = velocities(net, params, target, noise)
    speech = flow_loss(velocity["speech"], target["speech"], noise["speech"])
    motion = flow_loss(velocity["motion"], target["motion"], noise["motion"])
    here_BJ = jnp.clip(row["patch_slot"], 0, hidden.shape[1] - 1)
    logits = net.apply({"params": params}, take_at(hidden, here_BJ), method="stop_logits")
    stop, accuracy = stop_loss(logits, *stop_labels(row, config))
    loss = speech + config.motion_weight * motion + stop
    metrics = {"speech": speech, "motion": motion, "stop": stop, "stop_accuracy": accuracy}
    if config.spelling_weight:
        metrics["spelling"] = spelling_loss(net, params, row, target["mu"])
        loss += config.spelling_weight * metrics["spelling"]
    if config.regression_weight:
        patches = net.apply({"params": params}, target["mu"], method="regressed")
        metrics["regression"] = regression_loss(patches, target["speech"])
        loss += config.regression_weight * metrics["regression"]
    return loss, {"loss": loss} | metrics
