"""The standard columns of a clip dataset, for every speaker in it.

Readers pick what their corpus has; a column that a corpus lacks is left out, never filled in. Those
of further speakers have a prefix: `partner_audio`, `partner2_audio`.
"""

import hashlib

import numpy as np

from avjax.signal import mel, rates
from data_pipelines.store.schema import MENDED, Feature

PREFIXES = ("", "partner_", "partner2_", "partner3_")  # of the columns of each speaker

FACE_EMBEDDING = "face_embedding"

# Of the poses of named corpora, for `pose_z`: one for all, so that they can be mixed. Ours: about
# 10 degrees either way, and how far seated people move, in face widths.
POSE = {"mean": np.array([1, 0, 0, 0, 0, 0, 0], np.float32),
        "std": np.array([.02, .08, .08, .08, .3, .2, .1], np.float32)}


def of_clip(*, text: bool = True) -> dict[str, Feature]:
    """What a clip has once, however many speak. `text`: what is said."""
    said = {"text": Feature((), "str", "what is said; of several speakers, a line a turn")}
    return {"id": Feature((), "str", "unique name"), **(said if text else {}),
            MENDED: Feature((), "str", "JSON list: defects of the source that were mended here")}


def of_dialogue() -> dict[str, Feature]:
    """What a clip of several speakers has once."""
    return {"events": Feature((), "str", "JSON list of turns, backchannels, overlaps, gaps, "
                                         "pauses", "s"),
            "side": Feature((), "str", "which of the events' speakers is self: 0 or 1")}


def of_face(width: int) -> Feature:
    """The column of a recogniser's face embeddings."""
    return Feature((width,), "float32", "the face, by a recogniser of the user's, as it was given")


def of_speaker(prefix: str = "", *, audio: int | None = mel.RECIPE["sample_rate"],
               pictures: int | None = None, landmarks: int | None = None,
               face: int | None = None, pose: bool = False, activity: bool = False,
               pose_z: bool = False, words: bool = True, face_embedding: int | None = None,
               rate: float = rates.VIDEO) -> dict[str, Feature]:
    """The columns of one speaker.

    Args:
      prefix: one of PREFIXES.
      audio: sample rate, Hz; None where there is no sound.
      pictures: side of the face crops, pixels; brings `portrait` too.
      landmarks: points a frame.
      face: numbers in a frame's face code.
      pose: of the head.
      pose_z: of the head, by POSE, as features are made of it.
      activity: where the speaker speaks.
      words: of the speaker, with their times.
      face_embedding: numbers of a recogniser's.
      rate: of pictures, landmarks, face and pose, Hz.
    """
    out = {"speaker": Feature((), "str", "the speaker's name"),
           "identity": Feature((8,), "float32", "unit vector derived from the speaker's name")}
    if words:
        out["words"] = Feature((), "str", "JSON [[word, start, end], ...]", "s")
    if audio:
        out["audio"] = Feature((None,), "int16", "mono waveform", "1/32768", audio)
    if activity:
        out["activity"] = Feature((), "str", "JSON [[start, end], ...] of speech", "s")
    if pictures:
        out["pictures"] = Feature((None, pictures, pictures, 3), "uint8", "RGB crops of the face",
                                  "", rate)
        out["portrait"] = Feature((pictures, pictures, 3), "uint8", "the speaker, from the front")
    if landmarks:
        out["landmarks"] = Feature((None, landmarks, 2), "float32", "points of the face, x right "
                                   "and y down in the picture", "sides of the crop", rate)
    if face:
        out["face"] = Feature((None, face), "float32", "face code", "", rate)
    if face_embedding:
        out[FACE_EMBEDDING] = of_face(face_embedding)
    if pose:
        out["pose"] = Feature((None, 7), "float32", "head: quaternion wxyz, translation x right, "
                              "y up, z away", "face widths", rate)
    if pose_z:
        out["pose_z"] = Feature((None, 7), "float32", "pose, by fixed means and spreads",
                                "spreads of talking heads", rate)
    return {prefix + name: feature for name, feature in out.items()}


def standardised(pose_N7: np.ndarray) -> np.ndarray:
    """The column `pose_z` of a pose; the clips have POSE as their codec "pose"."""
    return ((pose_N7 - POSE["mean"]) / POSE["std"]).astype(np.float32)


def identity_of(speaker: str) -> np.ndarray:
    """A fixed unit vector for a name, (8,) float32; it distinguishes speakers, nothing else."""
    name = speaker.encode()
    # names may differ at their end alone
    name = name if len(name) <= 64 else hashlib.sha256(name).digest()
    seed = int.from_bytes(name.ljust(8, b"\0"), "little")
    vector = np.random.default_rng(seed).standard_normal(8)
    return (vector / np.linalg.norm(vector)).astype(np.float32)
