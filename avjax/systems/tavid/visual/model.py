"""The visual networks together: reference net, denoiser, Motion Mapper, and what projects a face
embedding to tokens.

Suffixes: B batch, F frames, R = 1 + motion frames, h w C latents, U units, S streams, E face
embedding, N face tokens, M motion tokens, K token width.
"""

import flax.linen as nn
import jax.numpy as jnp

from avjax.flow import diffusion
from avjax.nn.convolutions import fold, unfold
from avjax.sharding.activations import fold_frames, shard, unfold_frames
from avjax.systems.tavid.mapper.net import MotionMapper, TokenWindows
from avjax.systems.tavid.visual.config import Config
from avjax.systems.tavid.visual.denoiser import Denoiser
from avjax.systems.tavid.visual.parts import ImageProjection
from avjax.systems.tavid.visual.reference import ReferenceNet


class VisualNet(nn.Module):
    """Parameters {"reference", "denoiser", "mapper", "windows", "image_projection"}, in every stage
    the same."""

    config: Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        self.reference = ReferenceNet(c.unet, self.dtype)
        self.denoiser = Denoiser(c.unet, self.dtype, given_dim=c.unet.latent_dim
                                 if c.reference_input else 0)
        self.mapper = MotionMapper(c.mapper, self.dtype)
        self.windows = TokenWindows(c.mapper, self.dtype)
        self.image_projection = ImageProjection(c.face_width, c.face_tokens, c.unet.face_dim)

    def face(self, face_BE):
        """(B, N, K). No face is the embedding of zeros, whose tokens are not zero."""
        return shard(self.image_projection(face_BE), "batch")

    def tokens(self, units_BUS, length_B):
        """Motion tokens of stream 0 for every frame, with its neighbours' (B, U / 2, M, K)."""
        return self.windows(self.mapper(units_BUS, length_B), length_B // 2)

    def banks(self, latents_BRhwC, face_BNK):
        """Banks of the reference picture (row 0) and of the motion frames, for the denoiser."""
        return self.reference(self.folded(latents_BRhwC), face_BNK, tile_faces=self.config.path
                              == "published")

    def velocity(self, latents_BFhwC, reference_BhwC, t_B, banks, face_BNK, motion_BFMK,
                 reference_mask, temporal: bool):
        """v of noisy latents; `motion` None and `temporal` False leave those modules out. The
        reference's own latents are seen where config.reference_input says so, and zeros where
        `reference_mask` hides it."""
        c = self.config
        x = self.folded(latents_BFhwC)
        if c.reference_input:
            seen = 1.0
            if reference_mask is not None:
                seen = reference_mask[:, None, None, None].astype(jnp.float32)
            beside = self.folded((reference_BhwC * seen)[:, None])
            x = jnp.concatenate([x, jnp.broadcast_to(beside, x.shape)], axis=-1)
        out = self.denoiser(x, t_B, banks, face_BNK, motion_BFMK, reference_mask=reference_mask,
                            temporal=temporal,
                            path=c.path)
        out = unfold_frames(unfold(fold_frames(out), c.patch), len(latents_BFhwC))
        if c.predicts == "velocity":
            return out
        signal, sigma = diffusion.roots(diffusion.make_schedule(c.betas), t_B, out.ndim)
        return (signal * latents_BFhwC - out) / sigma

    def folded(self, latents_BFhwC):
        """Patches of cells as channels: small pictures then need no level of their own."""
        return unfold_frames(fold(fold_frames(latents_BFhwC), self.config.patch),
                             len(latents_BFhwC))

    def __call__(self, latents_BFhwC, units_BUS, face_BE):
        """Everything once, for `init`."""
        B = len(units_BUS)
        face = self.face(face_BE)
        tokens = self.tokens(units_BUS, jnp.full((B,), units_BUS.shape[1]))[:, :1]
        tokens = jnp.repeat(tokens, latents_BFhwC.shape[1], axis=1)
        return self.velocity(latents_BFhwC, latents_BFhwC[:, 0], jnp.zeros((B,), jnp.int32),
                             self.banks(latents_BFhwC, face),
                             face, tokens, None, True)
