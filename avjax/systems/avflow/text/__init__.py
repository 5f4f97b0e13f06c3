"""AV-Flow's text to tokens: symbols to the speech tokens that the audio-visual model reads."""

from avjax.systems.avflow.text.system import System

__all__ = ["System"]
