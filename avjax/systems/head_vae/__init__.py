"""The head VAE: head pose at 30 Hz to the latents that AV-Flow generates."""

from avjax.systems.head_vae.system import System

__all__ = ["System"]
