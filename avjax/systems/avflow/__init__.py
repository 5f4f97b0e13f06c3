"""AV-Flow: text (as speech tokens) to synchronised mel, facial expression and head motion by flow
matching."""

from avjax.systems.avflow.system import System

__all__ = ["System"]
