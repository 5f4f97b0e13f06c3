"""The built-in corpus, as `launch.prepare --dataset=puppets --out=DIR`; see
data_pipelines/puppets."""

from data_pipelines.puppets.build import prepare

__all__ = ["prepare"]
