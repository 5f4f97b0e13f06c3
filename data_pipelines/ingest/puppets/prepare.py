"""The built-in corpus: launch.prepare --dataset=puppets --out=DIR; see data_pipelines/puppets."""

from data_pipelines.declared import Ingest
from data_pipelines.puppets.build import prepare

DATASET = Ingest(prepare)
