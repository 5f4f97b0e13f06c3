"""Talker-T2AV: one autoregressive language model over text, speech and motion patches, two small
diffusion heads."""

from avjax.systems.talker.system import System

__all__ = ["System"]
