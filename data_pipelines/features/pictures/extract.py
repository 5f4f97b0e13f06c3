"""Clips -> pictures and what they show: what the VAE of pictures and the face reader learn from.

    pictures  (T, size, size, 3) uint8 RGB, `rate` a second
    motion    (T, M)             face code and z-scored pose of each picture, where known
Either speaker of a dialogue is an example of its own.
"""

from typing import Annotated

import numpy as np

from data_pipelines.declared import MaxBad, Option
from data_pipelines.features.common import clips as common
from data_pipelines.features.common.painter import FPS, Painter
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import FAMILY, Feature

_CARRIED = ("speaker", "identity")


def extract(
    clips_dir, out_dir, *,
    size: Annotated[int, Option("side of the pictures, pixels", above=0)] = 64,
    zoom: Annotated[float, Option("of puppets", above=0)] = 1.2,
    rate: Annotated[float, Option("pictures a second; neighbours differ little", above=0)] = 5.0,
    max_bad: MaxBad = 0.0, name: str = "pictures", progress: bool = True,
) -> store.Dataset:
    """Writes the pictures of a clip dataset. A killed job resumes when it is started again.

    Args:
      clips_dir: a dataset made by launch.prepare.
      out_dir: the folder to make.

    Raises:
      UserError: clips that nothing can be seen of; no such size or rate.
    """
    store.refuse_existing(out_dir)
    clips = common.open_clips(clips_dir, out_dir)
    painter = Painter(clips, size, zoom)
    carried = [c for c in _CARRIED if c in clips.features]

    fields = ("id", *dict.fromkeys((*carried, *painter.columns)))

    def example(source, i):
        clip = source[i]
        times_T = np.arange(max(1, int(painter.frames(clip) / FPS * rate))) / rate
        out = {"id": clip["id"], **{c: clip[c] for c in carried},
               "pictures": painter.pictures(clip, "", times_T)}
        return out | ({"motion": painter.motion(clip, "", times_T)} if painter.has_motion else {})

    features = {"id": clips.features["id"], **{c: clips.features[c] for c in carried},
                "pictures": Feature((None, size, size, 3), "uint8", "pictures of the face", "",
                                    rate)}
    recipes = {"pictures": {**painter.recipe, "rate": rate}, FAMILY: {"kind": "tavid"}}
    if painter.has_motion:
        features["motion"] = Feature((None, painter.motion_width), "float32",
                                     "face code, then z-scored pose",
                                     "standard deviations", rate)
        recipes["motion"] = {**painter.motion_recipe, "rate": rate}
    with common.job(out_dir, clips, "pictures", size=size, zoom=zoom, rate=rate) as job:
        return store.write_dataset(
            job, name=name, description=f"Pictures of {clips.name}, {size} x {size}, {rate} a "
                                        "second.", features=features,
            splits={s: common.each(clips.source(s, fields), example, max_bad)
                    for s in clips.splits}, recipes=recipes,
            totals=clips.splits, max_bad=max_bad, progress=progress,
            codecs={c: clips.codec(c) for c in clips.codecs if c in ("face", "pose")})
