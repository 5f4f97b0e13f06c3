"""A film of one person -> what the eigenfaces of that person and the track of the face tell of it.
It is read a few pictures at a time, so memory does not grow with it."""

import itertools
import pathlib
from collections.abc import Mapping

import numpy as np

from avjax.codecs import eigenface
from avjax.errors import UserError
from avjax.signal import rates
from data_pipelines import media
from data_pipelines.media import faces, landmarks

FPS = rates.VIDEO
_AT_ONCE = 64  # pictures that are encoded together


def whose(path: pathlib.Path, codec: Mapping, speaker: str, where: str) -> str:
    """The speaker whose eigenfaces read a film: `speaker`, else the one that it is named after.
    UserError: nobody of the codec's speakers."""
    known = sorted({name.rpartition("/")[0] for name in codec})
    found = speaker or (path.stem if path.stem in known else "")
    if found not in known:
        raise UserError("whose face is this?", where=where, expected=" or ".join(known),
                        found=repr(speaker) if speaker else "none",
                        hint="eigenfaces are a person's own: name a speaker of the training data")
    return found


def read(path: pathlib.Path, start: float, end: float, own: eigenface.Eigenface,
         points: str = "") -> tuple[np.ndarray, np.ndarray]:
    """(codes (N, K), pose (N, 7)) at 30 Hz, from `start` to `end` on the film's clock.

    Args:
      own: the codec of who is in it.
      points: kind of landmarks that tell the full rotation of the head; "" = roll alone.

    Raises media.MediaError, faces.FaceError, and UserError where packages of `points` are missing.
    """
    def pictures(**size):
        return (image for _, image in media.frames_at(path, FPS, start, end, **size))

    with faces.read_from(path):
        track, turn = faces.follow(pictures(max_side=faces.SHRINK), FPS), None
        if points:
            found = landmarks.along(track, pictures(max_side=faces.SHRINK),
                                    landmarks.finder(points))
            turn = landmarks.turn_of(found, FPS)
            track = track.turned(turn)
        cropper = faces.Cropper(track, own.shape[0], FPS)
    crops = (cropper(k, image) for k, image in enumerate(pictures()))
    codes = []
    while part := list(itertools.islice(crops, _AT_ONCE)):
        codes.append(own.encode(np.array(part)))
    return np.concatenate(codes), track.pose(turn)
