"""Clips whose motion is what LIA-X reads of their pictures: the column `motion` (T, 40) at 25 Hz.

Pictures are 512 x 512, made by Painter: puppets are drawn, eigenfaces decoded, recorded ones
resized. The statistics are those that the release keeps beside its weights.
"""

import pathlib
from collections.abc import Iterator

import numpy as np

from avjax.codecs import motion
from avjax.codecs.lia_x import codec
from data_pipelines.features.common import units
from data_pipelines.features.common.painter import FPS, Painter
from data_pipelines.features.talker.statistics import motion_statistics
from data_pipelines.store.schema import Feature


class Driven:
    """A view of a clip dataset, to be read as one.

    Args:
      clips: that something can be seen of.
      file: LIA-X's published weights, or their folder.
      statistics: folder of motion_mean.npy and motion_std.npy; None = the weights' own.

    Raises UserError: nothing can be seen, other weights, no statistics.
    """

    def __init__(self, clips, file: str, statistics: str | None = None):
        self._clips = clips
        self._painter = Painter(clips, codec.SIZE)
        beside = pathlib.Path(file)
        self._given = motion_statistics(beside if beside.is_dir() else beside.parent, statistics)
        self.encoder = codec.loaded(str(file), units.mesh())
        self.features = clips.features | {"motion": Feature(
            (None, motion.DIM), "float32", "motion, LIA-X", "", motion.RATE)}
        self.recipes = clips.recipes | {"motion": self.encoder.recipe | {
            "rate": motion.RATE, "pictures": self._painter.recipe}}
        self.codecs = (*(name for name in clips.codecs if name != "motion"), "motion")

    def __getattr__(self, name: str):
        if name.startswith("_"):  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._clips, name)

    def codec(self, name: str):
        """As that of a Dataset."""
        return self._given if name == "motion" else self._clips.codec(name)

    def source(self, split: str, fields=None) -> "Source":
        """As that of a Dataset."""
        fields = tuple(self.features if fields is None else fields)
        read = [name for name in fields if name != "motion"]
        seen = self._painter.columns if "motion" in fields else ()
        source = self._clips.source(split, tuple(dict.fromkeys((*read, *seen))))
        return Source(source, fields, self._painter, self.encoder)


class Source:
    """Random access to the records of a split, whose motion is made when it is looked at."""

    def __init__(self, source, fields: tuple[str, ...], painter: Painter, encoder: codec.LiaX):
        self._source, self._fields = source, fields
        self._painter, self._encoder = painter, encoder

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[dict]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> dict:
        clip = self._source[index]
        return {name: Motion(clip, self._painter, self._encoder) if name == "motion"
                else clip[name] for name in self._fields}


class Motion:
    """The motion (T, 40) of one clip: slices are made when they are asked for, a few
    pictures at a time."""

    def __init__(self, clip: dict, painter: Painter, encoder: codec.LiaX):
        self._clip, self._painter, self._encoder = clip, painter, encoder

    def __len__(self) -> int:
        return self._painter.frames(self._clip)

    def __getitem__(self, part: slice) -> np.ndarray:
        times_T = np.arange(len(self))[part] / FPS
        return self._encoder.motion(self._painter.pictures(self._clip, "", times_T[k:k + 1])[0]
                                    for k in range(len(times_T)))
