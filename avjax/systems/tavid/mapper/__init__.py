"""The Motion Mapper: units of N speakers -> motion tokens of one of them; as a System, its warm
start and ablation."""

from avjax.systems.tavid.mapper.system import System

__all__ = ["System"]
