"""The picture autoencoder in front of TAVID's video: trained before features are extracted, or
brought in published."""

from avjax.systems.tavid.vae.system import System

__all__ = ["System"]
