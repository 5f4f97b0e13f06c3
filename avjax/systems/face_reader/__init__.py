"""The face reader: pictures to face code and head pose."""

from avjax.systems.face_reader.system import System

__all__ = ["System"]
