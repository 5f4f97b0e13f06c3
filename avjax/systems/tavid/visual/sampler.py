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

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from avjax.flow import diffusion
from avjax.sharding import by_device
from avjax.sharding.activations import active_mesh, platform
from avjax.systems.tavid.joining import joined, later
from avjax.systems.tavid.mapper.net import each_speaker_first
from avjax.systems.tavid.visual.config import UNITS_A_FRAME
from avjax.systems.tavid.visual.model import Place


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


class Faces(NamedTuple):
    """Tokens (N, M, K) of the faces and of none, and where the faces lie in their references."""

    given: jax.Array
    none: jax.Array
    place: Place = Place()


def sound_tokens(system, params, audio_BTSA, length_B):
    """As `motion_tokens`, of sound; no sound has tokens of zeros (published)."""
    c = system.config
    if c.stage == "appearance":
        return None
    audio_NTA = rearrange(audio_BTSA, "B T S A -> (B S) T A").astype(jnp.float32)
    T = audio_NTA.shape[1]
    around_W = jnp.arange(-c.audio.margin, c.audio.margin + 1)
    last_N11 = jnp.maximum(jnp.repeat(length_B, audio_BTSA.shape[2]), 1)[:, None, None] - 1
    at_NTW = jnp.clip(jnp.arange(T)[:, None] + around_W, 0, last_N11)
    windows = jax.vmap(lambda x_TA, at_TW: x_TA[at_TW])(audio_NTA, at_NTW)
    tokens = system.net.apply({"params": params}, windows, method="audio_tokens")
    wanted = {motion for _, _, motion in passes(c)}
    return {given: tokens if given else jnp.zeros_like(tokens) for given in sorted(wanted)}


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


def face_tokens(system, params, face_NE, shapes=None) -> Faces:
    """For the faces and for none; `shapes`: {"regions" (N, h, w, P), "face_mask" (N, H, W)} where
    the config has them looked at."""
    variables = {"params": params}
    given, none = (system.net.apply(variables, face_NE * seen, method="face")
                   for seen in (True, False))
    return Faces(given, none, system.net.apply(variables, shapes or {}, method="place"))


def sample_clip(system, params, reference_NhwC, faces, tokens, before_NRhwC, keys_N):
    """One clip (N, F, h, w, C).

    Args:
      faces: of `face_tokens`; with them, where the faces lie.
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
    banks = system.net.apply(variables, pictures, faces.given, method="banks")
    mixed = passes(c)
    weights = jnp.array([weight for weight, _, _ in mixed])
    banks, place = jax.tree.map(lambda x: jnp.concatenate([x] * len(mixed)), (banks, faces.place))
    references = jnp.concatenate([reference_NhwC] * len(mixed))
    face = jnp.concatenate([faces.given if seen else faces.none for _, seen, _ in mixed])
    motion = None if tokens is None else jnp.concatenate([tokens[given] for _, _, given in mixed])
    sees = None if all(seen for _, seen, _ in mixed) else jnp.repeat(
        jnp.array([int(seen) for _, seen, _ in mixed]), N)
    # on one CPU, predictions without the reference or without sound (they come last) leave out what
    # is hidden or zero
    alone = platform() == "cpu" and active_mesh() is None
    blind = N * sum(not seen for _, seen, _ in mixed) if alone else 0
    mute = N * sum(not given for _, _, given in mixed) if alone and c.driver == "audio" else 0

    def predict(x_NFhwC, t):
        many = jnp.concatenate([x_NFhwC] * len(mixed))
        velocity = system.net.apply(variables, many, references, jnp.full((len(many),), t), banks,
                                    face, motion, sees, temporal, place, blind,
                                    mute, method="velocity")
        return jnp.tensordot(weights, velocity.reshape(len(mixed), *x_NFhwC.shape), axes=1)

    shape = (c.clip, *c.latent_size, c.latent_dim)
    noise = jax.vmap(lambda k: jax.random.normal(k, shape))(keys_N)
    noise, motion = jax.tree.map(lambda x: by_device.own(x, 1), (noise, motion))
    made = diffusion.ddim(predict, noise, diffusion.make_schedule(c.sample_betas), c.steps)
    return by_device.gathered(made, 1, c.clip)


def begin(system, params, conditions, keys):
    """The inputs that all clips share, and the frames before the first: (reference (N, h, w, C),
    face tokens, motion tokens, keys (N,), before (N, R, h, w, C)). Without frames to continue from,
    the reference is repeated. Optional conditions heard (B, H, S) and heard_length (B,), whole
    frames: units of all speakers before, which the Motion Mapper sees too."""
    driver = system.config.driver
    sound, length_B = conditions[driver], conditions[f"{driver}_length"]
    S = sound.shape[2]
    heard_B = conditions.get("heard_length")
    if heard_B is not None:
        sound = joined(conditions["heard"], heard_B, sound)
        length_B = length_B + heard_B
    reference_NhwC = fold_speakers(conditions["reference"])
    shapes = {name: fold_speakers(conditions[name]) for name in ("regions", "face_mask")
              if name in system.conditions_spec}
    faces = face_tokens(system, params, fold_speakers(conditions["faces"]), shapes)
    make = motion_tokens if driver == "units" else sound_tokens
    tokens = make(system, params, sound, length_B)
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
    alone. On several CPU devices each takes its examples, and its frames of every clip."""
    if by_device.pays(system.config.clip):
        return by_device.by_device(lambda params, rows: generate(system, params, *rows), params,
                                   (conditions, keys))
    c = system.config
    rate = UNITS_A_FRAME if c.driver == "units" else 1
    B = len(conditions["reference"])
    F = c.clip
    R = c.unet.motion_frames
    T = conditions[c.driver].shape[1] // rate
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
            "latents_length": conditions[f"{c.driver}_length"] // rate}
