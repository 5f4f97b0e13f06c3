"""Video clip by clip: DDIM over a clip of frames, each clip after the last frames of the one
before.

Guidance mixes predictions with and without conditions, n the null condition (face tokens of zeros,
no reference, units not given; the motion frames stay, as published):
    combined   v(n, n) + guidance (v(ref, mot) - v(n, n)); Hallo2: 3.5
    separate   v(n, n) + s_ref (v(ref, n) - v(n, n)) + s_mot (v(ref, mot) - v(ref, n)); ours
Predictions of weight 0 are skipped: separate with s_ref = 1 costs two passes, with s_ref = s_mot =
1 one.

Suffixes: N = batch * speakers, T frames, F frames of a clip, R motion frames, h w C latents.
"""

import jax
import jax.numpy as jnp
from einops import rearrange

from avjax.flow import diffusion
from avjax.systems.tavid.history import joined, later
from avjax.systems.tavid.mapper.net import each_speaker_first


def passes(c) -> list[tuple[float, bool, bool]]:
    """(weight, with reference and face, with motion tokens) of every prediction that guidance
    mixes."""
    if c.guidance_mode == "combined":
        mixed = [(c.guidance, True, True), (1 - c.guidance, False, False)]
    else:
        ref, motion = c.guidance_reference, c.guidance_motion
        mixed = [(motion, True, True), (ref - motion, True, False), (1 - ref, False, False)]
    if c.stage == "appearance":  # motion is not a condition yet
        mixed = [(w, seen, False) for w, seen, _ in mixed]
    return [each for each in mixed if abs(each[0]) > 1e-9]


def fold_speakers(x_BS):
    """(B, S, ...) -> (B * S, ...)."""
    return rearrange(x_BS, "B S ... -> (B S) ...")


def motion_tokens(system, params, units_BUS, length_B):
    """{given: tokens (N, T, M, K)} for units and for none, each speaker in turn as the target; None
    in stage appearance."""
    if system.config.stage == "appearance":
        return None
    units = each_speaker_first(units_BUS)
    lengths = jnp.repeat(length_B, units_BUS.shape[2])
    none = jnp.full_like(units, system.config.mapper.num_units)
    wanted = {motion for _, _, motion in passes(system.config)}
    return {given: system.net.apply({"params": params}, units if given else none, lengths,
                                    method="tokens")
            for given in sorted(wanted)}


def face_tokens(system, params, face_NE):
    """{given: tokens} for the faces and for none."""
    return {given: system.net.apply({"params": params}, face_NE * given, method="face")
            for given in (True, False)}


def sample_clip(system, params, reference_NhwC, faces, tokens, before_NRhwC, keys_N):
    """One clip (N, F, h, w, C).

    Args:
      faces: of `face_tokens`.
      tokens: {given: (N, F, M, K)}, or None in stage appearance.
      before_NRhwC: the frames before.
      keys_N: keys of the initial noise.
    """
    c = system.config
    temporal = system.config.stage == "temporal"
    variables = {"params": params}
    N = len(reference_NhwC)
    pictures = reference_NhwC[:, None]
    if temporal:
        if c.sample_motion_drop:
            kept = jax.vmap(lambda k: jax.random.bernoulli(jax.random.fold_in(k, 1),
                                                           1 - c.sample_motion_drop,
                                                           (1, *c.latent_size, 1)))(keys_N)
            before_NRhwC = before_NRhwC * kept
        pictures = jnp.concatenate([pictures, before_NRhwC], axis=1)
    banks = system.net.apply(variables, pictures, faces[True], method="banks")
    mixed = passes(c)
    weights = jnp.array([weight for weight, _, _ in mixed])
    banks = jax.tree.map(lambda x: jnp.concatenate([x] * len(mixed)), banks)
    references = jnp.concatenate([reference_NhwC] * len(mixed))
    face = jnp.concatenate([faces[seen] for _, seen, _ in mixed])
    motion = None if tokens is None else jnp.concatenate([tokens[given] for _, _, given in mixed])
    sees = None if all(seen for _, seen, _ in mixed) else jnp.repeat(
        jnp.array([int(seen) for _, seen, _ in mixed]), N)

    def predict(x_NFhwC, t):
        many = jnp.concatenate([x_NFhwC] * len(mixed))
        velocity = system.net.apply(variables, many, references, jnp.full((len(many),), t), banks,
                                    face, motion, sees,
                                    temporal, method="velocity")
        return jnp.tensordot(weights, velocity.reshape(len(mixed), *x_NFhwC.shape), axes=1)

    shape = (c.clip, *c.latent_size, c.latent_dim)
    noise = jax.vmap(lambda k: jax.random.normal(k, shape))(keys_N)
    return diffusion.ddim(predict, noise, diffusion.make_schedule(c.sample_betas), c.steps)


def begin(system, params, conditions, keys):
    """The inputs that all clips share, and the frames before the first: (reference (N, h, w, C),
    face tokens, motion tokens, keys (N,), before (N, R, h, w, C)). Without frames to continue from,
    the reference is repeated. Optional conditions heard (B, H, S) and heard_length (B,), whole
    frames: units of all speakers before, which the Motion Mapper sees too."""
    S = conditions["units"].shape[2]
    units_BUS, length_B = conditions["units"], conditions["units_length"]
    heard_B = conditions.get("heard_length")
    if heard_B is not None:
        units_BUS = joined(conditions["heard"], heard_B, units_BUS)
        length_B = length_B + heard_B
    reference_NhwC = fold_speakers(conditions["reference"])
    faces = face_tokens(system, params, fold_speakers(conditions["faces"]))
    tokens = motion_tokens(system, params, units_BUS, length_B)
    if heard_B is not None:
        frames, first_N = conditions["units"].shape[1] // 2, jnp.repeat(heard_B // 2, S)
        tokens = jax.tree.map(lambda x: later(x, first_N, frames), tokens)

    def speaker_keys(key):
        return jax.vmap(lambda s: jax.random.fold_in(key, s))(jnp.arange(S))

    keys_N = jax.vmap(speaker_keys)(keys).reshape(-1)
    given = jnp.repeat(conditions["has_first"], S)[:, None, None, None, None] > 0
    copies = jnp.repeat(reference_NhwC[:, None], system.config.unet.motion_frames, axis=1)
    before_NRhwC = jnp.where(given, fold_speakers(conditions["first_motion"]), copies)
    return reference_NhwC, faces, tokens, keys_N, before_NRhwC


def generate(system, params, conditions, keys):
    """{"latents" (B, T, S, h, w, C), "latents_length"}: the mapper once, then one scan over clips
    that carries the last frames. Noise depends on an example's key, the speaker and the clip
    alone."""
    c = system.config
    B, U, _ = conditions["units"].shape
    F = c.clip
    R = c.unet.motion_frames
    T = U // 2
    clips = -(-T // F)
    reference, faces, tokens, keys_N, before = begin(system, params, conditions, keys)

    def in_clips(x_NTMK):
        """(clips, N, F, M, K), the last frame repeated."""
        x = jnp.pad(x_NTMK, ((0, 0), (0, clips * F - T), (0, 0), (0, 0)), mode="edge")
        return rearrange(x, "N (clips F) M K -> clips N F M K", clips=clips)

    def one(before, inputs):
        clip, tokens = inputs
        keys_clip = jax.vmap(lambda key: jax.random.fold_in(key, clip))(keys_N)
        made = sample_clip(system, params, reference, faces, tokens, before, keys_clip)
        return made[:, F - R:], made

    _, made = jax.lax.scan(one, before, (jnp.arange(clips), jax.tree.map(in_clips, tokens)))
    frames = rearrange(made, "clips (B S) F h w C -> B (clips F) S h w C", B=B)[:, :T]
    return {"latents": frames,
            "latents_length": conditions["units_length"] // 2}
