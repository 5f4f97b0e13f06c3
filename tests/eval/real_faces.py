"""The toy corpus as clips of real people: a stand-in for the networks finds a mouth that is as open
as the picture is bright."""

import numpy as np

from data_pipelines.media import landmarks
from data_pipelines.media.facial import shape
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature
from eval.benchmarks import clips
from tests.eval import toys

KIND = "dlib68"


def points(opening: float) -> np.ndarray:
    """(68, 2) of a face from the front, in sides of its crop."""
    rigid = shape.rigid(68)
    out = np.zeros((68, 2))
    out[rigid.points] = rigid.xyz[:, :2] * 8 / (8 - rigid.xyz[:, 2:])
    for lid, y in (((37, 38, 43, 44), -0.05), ((41, 40, 47, 46), 0.05)):
        out[list(lid)] = np.stack([(-0.4, -0.3, 0.3, 0.4), np.full(4, y)], 1)
    half = 0.2 + 0.05 * opening
    across = half * np.array([-1, -0.5, 0, 0.5, 1, 0.5, 0, -0.5])
    down = 0.75 + 0.1 * opening * np.array([0, -1, -1, -1, 0, 1, 1, 1])
    out[60:68] = np.stack([across, down], 1)
    return 0.3 * out + (0.5, 0.4)


def finder(kind):
    """landmarks.finder of pictures of one brightness; black ones show no face at all if they are
    128 pixels wide."""
    def find(image, x, y, width, roll):
        return points(image.mean() / 255) * image.shape[1], float(image.shape[1] != 128)

    return find


def write_clips(folder, features):
    """The clips that a toy feature dataset was made from, with landmarks."""
    def rows(split):
        for example in features.source(split, ("id", "face")):
            opening = toys.StreamDecoder(None).face({"face": example["face"]})[:, 0].clip(0, 1)
            yield {"id": example["id"],
                   "landmarks": np.array([points(x) for x in opening], np.float32)}

    columns = {"id": Feature((), "str", "id"),
               "landmarks": Feature((None, 68, 2), "float32", "points", "sides", 30)}
    return store.write_dataset(
        folder, name="toy_clips", description="toy", features=columns, progress=False,
        splits={split: rows(split) for split in features.splits},
        recipes={"landmarks": landmarks.recipe(KIND)})


def benchmark(folder, patch, networks="", **options):
    """clips.Benchmark of such a corpus; `patch`: pytest's MonkeyPatch, in force while it scores."""
    patch.setattr(landmarks, "finder", finder)
    patch.setattr(landmarks, "lacking", lambda kind: "")
    features = toys.write_corpus(folder / "features")
    return clips.Benchmark(toys.config(networks=networks), toys.Decoder(), features, toys.System(),
                           clips=write_clips(folder / "clips", features), **options)
