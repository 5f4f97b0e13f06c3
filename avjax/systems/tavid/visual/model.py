"""The visual networks together: reference net, denoiser, what makes motion tokens (the Motion
Mapper of units, or Hallo2's projection of sound), what projects a face embedding to tokens, and the
face locator.

Suffixes: B batch, F frames, R = 1 + motion frames, h w C latents, U units, S streams, E face
embedding, N face tokens, M motion tokens, K token width, W frames of a window, A audio features,
P = 3 regions, H W pixels.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from avjax.flow import diffusion
from avjax.nn.convolutions import fold, unfold
from avjax.sharding.activations import fold_frames, shard, unfold_frames
from avjax.systems.tavid.mapper.net import MotionMapper, TokenWindows
from avjax.systems.tavid.visual import regions
from avjax.systems.tavid.visual.config import Config
from avjax.systems.tavid.visual.denoiser import Denoiser
from avjax.systems.tavid.visual.parts import AudioProjection, FaceLocator, ImageProjection
from avjax.systems.tavid.visual.reference import ReferenceNet


class Place(NamedTuple):
    """Where a face and its regions lie in the pictures of a clip; None where nothing looks at it.

    masks: for each level (B, 1, positions, regions) weights; located: the locator's map
    (B, 1, h, w, D).
    """

    masks: tuple | None = None
    located: jax.Array | None = None


class VisualNet(nn.Module):
    """Parameters {"reference", "denoiser", "image_projection"}, with {"mapper", "windows"} of units
    or {"audio_projection"} of sound, and {"face_locator"} where there is one; in every stage the
    same."""

    config: Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        self.reference = ReferenceNet(c.unet, self.dtype)
        tokens = (2 * c.mapper.margin + 1) * c.mapper.tokens if c.driver == "units" \
            else c.audio.tokens
        self.denoiser = Denoiser(c.unet, self.dtype, c.unet.latent_dim * c.reference_input,
                                 tokens * c.unet.motion_dim * c.motion_shift)
        if c.driver == "units":
            self.mapper = MotionMapper(c.mapper, self.dtype)
            self.windows = TokenWindows(c.mapper, self.dtype)
        else:
            a = c.audio
            self.audio_projection = AudioProjection((2 * a.margin + 1) * a.layers * a.width,
                                                    a.hidden, a.tokens, c.unet.motion_dim,
                                                    self.dtype)
        if c.locator:
            self.face_locator = FaceLocator(c.unet.channels[0], tuple(c.locator), self.dtype)
        self.image_projection = ImageProjection(c.face_width, c.face_tokens, c.unet.face_dim)

    def face(self, face_BE):
        """(B, N, K). No face is the embedding of zeros, whose tokens are not zero."""
        return shard(self.image_projection(face_BE), "batch")

    def tokens(self, units_BUS, length_B):
        """Motion tokens of stream 0 for every frame, with its neighbours' (B, U / 2, M, K)."""
        return self.windows(self.mapper(units_BUS, length_B), length_B // 2)

    def audio_tokens(self, windows_BFWA):
        """Motion tokens of windows of sound (B, F, M, K)."""
        return shard(self.audio_projection(windows_BFWA), "batch", "time")

    def place(self, given) -> Place:
        """Of "regions" (B, h, w, P) and "face_mask" (B, H, W) of `given`, where the config has
        them looked at."""
        c = self.config
        masks, located = None, None
        if c.masks:
            masks = regions.levels(given["regions"], c.unet.regions, c.patch, len(c.unet.channels))
        if c.locator:
            mask_BHW = given["face_mask"].astype(jnp.float32)
            located = self.face_locator(jnp.stack([mask_BHW] * 3, axis=-1)[:, None])
        return Place(masks, located)

    def banks(self, latents_BRhwC, face_BNK):
        """Banks of the reference picture (row 0) and of the motion frames, for the denoiser."""
        return self.reference(self.folded(latents_BRhwC), face_BNK, tile_faces=self.config.path
                              == "published")

    def velocity(self, latents_BFhwC, reference_BhwC, t_B, banks, face_BNK, motion_BFMK,
                 reference_mask, temporal: bool, place: Place = Place(), blind: int = 0,
                 mute: int = 0):
        """v of noisy latents; `motion` None and `temporal` False leave those modules out. `blind`,
        `mute`: see `Denoiser`. The reference's own latents are seen where config.reference_input
        says so, and zeros where `reference_mask` hides it, as is what the locator found."""
        c = self.config
        x = self.folded(latents_BFhwC)
        if c.reference_input:
            seen = 1.0
            if reference_mask is not None:
                seen = reference_mask[:, None, None, None].astype(jnp.float32)
            beside = self.folded((reference_BhwC * seen)[:, None])
            x = jnp.concatenate([x, jnp.broadcast_to(beside, x.shape)], axis=-1)
        located = place.located
        if located is not None:
            if reference_mask is not None:
                located = located * reference_mask[:, None, None, None, None].astype(located.dtype)
            located = jnp.broadcast_to(located, (*x.shape[:2], *located.shape[2:]))
        out = self.denoiser(x, t_B, banks, face_BNK, motion_BFMK, reference_mask=reference_mask,
                            mask_feature=located, masks=place.masks, temporal=temporal,
                            path=c.path, blind=blind, mute=mute)
        out = unfold_frames(unfold(fold_frames(out), c.patch), len(latents_BFhwC))
        if c.predicts == "velocity":
            return out
        signal, sigma = diffusion.roots(diffusion.make_schedule(c.betas), t_B, out.ndim)
        return (signal * latents_BFhwC - out) / sigma

    def folded(self, latents_BFhwC):
        """Patches of cells as channels: small pictures then need no level of their own."""
        return unfold_frames(fold(fold_frames(latents_BFhwC), self.config.patch),
                             len(latents_BFhwC))

    def __call__(self, latents_BFhwC, given, face_BE):
        """Everything once, for `init`: `given` has "units" (B, U, S) or "audio" (B, F, W, A), and
        what `place` takes."""
        B, F = latents_BFhwC.shape[:2]
        face = self.face(face_BE)
        if self.config.driver == "units":
            units_BUS = given["units"]
            tokens = self.tokens(units_BUS, jnp.full((B,), units_BUS.shape[1]))[:, :1]
        else:
            tokens = self.audio_tokens(given["audio"])[:, :1]
        tokens = jnp.repeat(tokens, F, axis=1)
        return self.velocity(latents_BFhwC, latents_BFhwC[:, 0], jnp.zeros((B,), jnp.int32),
                             self.banks(latents_BFhwC, face),
                             face, tokens, None, True, self.place(given))
