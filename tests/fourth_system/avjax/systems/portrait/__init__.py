"""Portrait: speech to expression and head pose by a small causal diffusion network."""

from avjax.systems.portrait.system import System

__all__ = ["System"]
