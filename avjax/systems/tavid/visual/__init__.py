"""TAVID's video: reference net, denoiser with motion tokens and time, trained in stages on cached
latents."""

from avjax.systems.tavid.visual.system import System

__all__ = ["System"]
