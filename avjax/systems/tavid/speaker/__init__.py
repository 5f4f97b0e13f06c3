"""S6, the Speaker Mapper: what voice goes with a face."""

from avjax.systems.tavid.speaker.system import System

__all__ = ["System"]
