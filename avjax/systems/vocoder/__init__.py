"""BigVGAN as a thing to train: a vocoder for the mel of the other systems."""

from avjax.systems.vocoder.system import System

__all__ = ["System"]
