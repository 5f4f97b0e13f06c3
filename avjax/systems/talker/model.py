"""The Talker-T2AV network: patches to tokens, the language model, hidden states to velocities and a
stop logit.

Methods are used by `net.apply({"params": params}, ..., method="hidden")` and the like.

Suffixes: B rows, N positions, J patches of a row, P frames a patch, U utterances of a row, A audio
latent, M motion, S speaker, D model width; `...` any leading axes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from avjax.nn.layers import Dense
from avjax.nn.sequence import put_at
from avjax.sharding.activations import shard
from avjax.systems.talker.backbone import Backbone
from avjax.systems.talker.config import Config
from avjax.systems.talker.local import PatchEncoder, VelocityHead, joint_velocities

SPELLED = 2  # text ids that a frame may spell: phonemes and their stress marks, up to 50 a second


class TalkerNet(nn.Module):
    config: Config
    dtype: jnp.dtype
    unstacked: bool = False  # the local stacks, for a sampler (`decode` unstacks them)

    def setup(self):
        c = self.config
        kw = dict(dtype=self.dtype, init_scale=c.init_scale)
        self.backbone = Backbone(c, self.dtype)
        self.audio_projector = Dense(c.d_model, c.audio_dim, **kw)
        self.motion_projector = Dense(c.d_model, c.motion_dim, **kw)
        self.stop_hidden = Dense(c.d_model, c.d_model, **kw)
        self.stop_out = Dense(1, c.d_model, use_bias=False, **kw)
        if c.spelling_weight:
            self.spelling = Dense((SPELLED * c.patch, c.d_model), c.d_model, **kw)
        if c.regression_weight:
            self.regression = Dense((c.patch, c.audio_dim), c.d_model, **kw)
        kw |= {"remat": c.remat, "unstacked": self.unstacked}
        encoder = dict(width=c.d_model, heads=c.encoder_heads, layers=c.encoder_layers, **kw)
        self.audio_encoder, self.motion_encoder = PatchEncoder(**encoder), PatchEncoder(**encoder)
        head = dict(width=c.velocity_width, heads=c.velocity_heads, layers=c.velocity_layers,
                    patch=c.patch, **kw)
        self.speech_head = VelocityHead(c.audio_dim, c.speaker_dim, **head)
        self.motion_head = VelocityHead(c.motion_dim, c.motion_dim, **head)
        self.task = self.param("task", nn.initializers.normal(1.0), (c.task_embedding, c.d_model))
        self.motion_pad = self.param("motion_pad", nn.initializers.zeros, (c.d_model,))

    def embed_text(self, tokens):
        """Token ids (...) -> (..., D)."""
        return self.backbone.embed(tokens)

    def task_and_text(self, tokens, position):
        """Token ids (...) -> (..., D); where position is 0 the id is a task's."""
        task = jnp.take(self.task, tokens, axis=0, mode="clip").astype(self.dtype)
        return jnp.where((position == 0)[..., None], task, self.embed_text(tokens))

    def patch_tokens(self, audio, audio_valid, motion, motion_valid, tts, with_motion=True):
        """Tokens of patches, (..., D).

        Args:
          audio, motion: (..., P, A), (..., P, M) of the same slot, motion already delayed.
          audio_valid, motion_valid: (...) frames of each that exist; others are zeros in the
            encoder's input.
          tts: (...) or scalar bool: the learned pad stands in for the motion token.
          with_motion: (...) or scalar bool; False leaves out both (the release's sampler until
            motion starts).
        """
        audio_token = self.audio_encoder(_project(self.audio_projector, audio, audio_valid))
        motion_token = self.motion_encoder(_project(self.motion_projector, motion, motion_valid))
        tts, with_motion = jnp.asarray(tts)[..., None], jnp.asarray(with_motion)[..., None]
        other = jnp.where(tts, self.motion_pad.astype(self.dtype), motion_token)
        return audio_token + jnp.where(with_motion, other, 0.0)

    def hidden(self, x_BND, position_BN, segment_BN):
        """Hidden states after the final norm, (B, N, D); causal within segments."""
        return self.backbone(x_BND, position_BN, segment_BN)

    def prefill(self, x_BND, position_BN, segment_BN, cache_size: int):
        """Hidden states and the cache {"k", "v"}: (layers, B, kv heads, cache_size, head width)."""
        return self.backbone.prefill(x_BND, position_BN, segment_BN, cache_size)

    def step(self, x_BD, cache, index_B):
        """One more position a row, at position (and cache place) index_B -> hidden (B, D),
        cache."""
        return self.backbone.step(x_BD, cache, index_B)

    def speech_velocity(self, x, t, mu, context, speaker):
        """x, context (..., P, A); t (...); mu (..., D); speaker (..., S) -> (..., P, A) float32."""
        return self.speech_head(x, t, mu, context, speaker)

    def motion_velocity(self, x, t, mu, context, first):
        """x, context (..., P, M); t (...); mu (..., D); first motion frame (..., M) -> (..., P, M)
        float32."""
        return self.motion_head(x, t, mu, context, first)

    def velocities_joint(self, speech, motion, has_speech, has_motion):
        """Both velocities of the same patch slots with coupled heads. speech, motion: the arguments
        of `speech_velocity` and `motion_velocity`, of the same leading axes; has_speech,
        has_motion: (...) bool, False hides a modality that the slot lacks (its velocity is then
        meaningless)."""
        return joint_velocities(self.speech_head, self.motion_head, speech, motion, has_speech,
                                has_motion)

    def stop_logits(self, hidden):
        """(..., D) -> (...) float32."""
        return self.stop_out(jax.nn.silu(self.stop_hidden(hidden)))[..., 0].astype(jnp.float32)

    def spelled(self, mu_BJD, ids_BN):
        """What hidden states (B, J, D) before patches say of F = SPELLED J P parts of frames, by
        the tied embedding: log-probabilities (B, F, N) of the ids of a row's positions, float32."""
        B, _, D = mu_BJD.shape
        parts_BFD = self.spelling(mu_BJD).reshape(B, -1, D).astype(jnp.float32) / D**0.5
        ids_BND = self.embed_text(ids_BN).astype(jnp.float32)
        total_BF = jax.nn.logsumexp(self.backbone.logits(parts_BFD), axis=-1)
        return jnp.einsum("bfd,bnd->bfn", parts_BFD, ids_BND) - total_BF[..., None]

    def regressed(self, mu_BJD):
        """Patches of speech (B, J, P, A) as a linear function of the hidden states before them,
        float32."""
        return self.regression(mu_BJD).astype(jnp.float32)

    def encode_row(self, row):
        """Hidden states (B, N, D) of packed rows (arrays of `System.batch_spec`)."""
        slots = arrange(row, self.config.delay)
        x_BND = shard(self.task_and_text(row["tokens"], row["position"]), "batch", "time")
        tokens_BJD = self.patch_tokens(slots["audio"], slots["audio_valid"], slots["motion"],
                                       slots["motion_valid"],
                                       slots["tts"])
        tokens_BJD = shard(tokens_BJD.astype(x_BND.dtype), "batch", "time")
        x_BND = put_at(x_BND, row["patch_slot"], tokens_BJD)
        return self.hidden(x_BND, row["position"], row["segment"])

    def __call__(self, row):
        """Touches every parameter: hidden states, velocities at the data, stop logits."""
        hidden = self.encode_row(row)
        B, J, P, A = row["audio"].shape
        mu, t = jnp.zeros((B, J, self.config.d_model)), jnp.zeros((B, J))
        speaker = jnp.zeros((B, J, self.config.speaker_dim))
        speech = self.speech_velocity(row["audio"], t, mu, row["audio"], speaker)
        motion = self.motion_velocity(row["motion"], t, mu, row["motion"], row["motion"][:, :, 0])
        if self.config.spelling_weight:
            self.spelled(mu, row["tokens"])
        if self.config.regression_weight:
            self.regressed(mu)
        return hidden, speech, motion, self.stop_logits(hidden)


def _project(projector, frames, valid):
    """Projected frames; those that do not exist are zeros."""
    exists = (jnp.arange(frames.shape[-2]) < valid[..., None])[..., None]
    return jnp.where(exists, projector(jnp.where(exists, frames, 0.0)), 0.0)


def arrange(row, delay: int):
    """The patches of each slot of packed rows: the audio's, and the motion's `delay` patches
    earlier, padding as zeros.

    Returns {"audio" (B,J,P,A), "audio_valid" (B,J), "motion" (B,J,P,M), "motion_valid" (B,J), "tts"
    (B,J) bool}. Utterances without any motion are text to speech.
    """
    J = row["patch_slot"].shape[1]
    real_BJ = row["patch_segment"] > 0

    def clean(frames, valid):
        exists = jnp.arange(frames.shape[2]) < valid[..., None]
        return jnp.where(exists[..., None], frames, 0.0)

    def late(x):
        """Moves patches `delay` to the right within their utterance."""
        moved = jnp.pad(x, ((0, 0), (delay, 0)) + ((0, 0),) * (x.ndim - 2))[:, :J]
        keep = real_BJ & (row["patch_index"] >= delay)
        return jnp.where(keep.reshape(*keep.shape, *(1,) * (x.ndim - 2)), moved, 0)

    audio_valid = jnp.where(real_BJ, row["audio_valid"], 0)
    own_valid = jnp.where(real_BJ, row["motion_valid"], 0)
    motion = clean(row["motion"], own_valid)
    motion_valid = late(own_valid)
    tts = per_utterance(motion_valid, row["patch_segment"], row["speaker"].shape[1]) == 0
    return {"audio": clean(row["audio"], audio_valid), "audio_valid": audio_valid,
            "motion": late(motion),
            "motion_valid": motion_valid, "tts": tts}


def per_utterance(value_BJ, segment_BJ, utterances: int):
    """The sum of a value over the patch's utterance, at every patch (B, J); padding is an utterance
    of its own."""
    member_BJU = (segment_BJ[..., None] == jnp.arange(utterances + 1)).astype(value_BJ.dtype)
    total_BU = jnp.einsum("bj,bju->bu", value_BJ, member_BJU)
    return jnp.einsum("bu,bju->bj", total_BU, member_BJU)
