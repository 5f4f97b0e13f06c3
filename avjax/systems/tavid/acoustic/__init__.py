"""TAVID's acoustic denoiser: units and a voice to mel by flow matching."""

from avjax.systems.tavid.acoustic.system import System

__all__ = ["System"]
