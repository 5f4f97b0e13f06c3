"""TAVID's first part: dialogue text to time-aligned semantic units of every speaker, one
autoregressive encoder-decoder."""

from avjax.systems.tavid.text.system import System

__all__ = ["System"]
