"""Dialogues of puppets, changed, and a stand-in for the VAE of their pictures."""

import numpy as np

from data_pipelines.store import dataset as store

SIZE, UNITS = 32, 12
OPTIONS = dict(num_units=UNITS, size=SIZE, progress=False)


class Averages:
    """Stands for a VAE: means of 8 x 8 pixels, and a fourth channel that is none."""

    recipe = {"kind": "averages"}

    def arrays(self):
        return {"none": np.zeros(1)}

    def latent_shape(self, height, width):
        return height // 8, width // 8, 4

    def encode(self, pictures_NHWC):
        means = pictures_NHWC.reshape(-1, SIZE // 8, 8, SIZE // 8, 8,
                                      3).mean((2, 4)).astype(np.float32) / 255
        return np.pad(means, [(0, 0)] * 3 + [(0, 1)])


def rows(dataset, split):
    return {row["id"]: row for row in dataset.source(split)}


def rewritten(out, clips, change, columns=None):
    """The dialogues again, each record changed by `change(i, record)`; i is -1 outside of train."""
    splits = {s: [change(i if s == "train" else -1, dict(r)) for i, r in enumerate(clips.source(s))]
              for s in clips.splits}
    return store.write_dataset(out, name="clips", description="changed", features=clips.features
                               | (columns or {}), splits=splits, recipes=clips.recipes,
                               codecs={c: clips.codec(c) for c in clips.codecs}, progress=False)
