"""Decoded conversations -> clips: one from each speaker's side, "<id>-<frame>/<side>".

The side's own speaker has the columns without a prefix, the others follow in order. Pictures of the
others are in the first side's clip alone (the others have 0 frames there): a system of all speakers
reads that one, one of a single speaker the speaker's own.
"""

import functools
import json
import math
from collections.abc import Sequence

import cv2
import numpy as np

from avjax.codecs import eigenface
from data_pipelines.features.tavid import script
from data_pipelines.ingest.clips.write import FIT_FRAMES
from data_pipelines.ingest.common import corpus, recordings
from data_pipelines.ingest.common.recording import codec_recipes, landmark_features, pose_codec
from data_pipelines.ingest.common.recordings import FPS, SAMPLES
from data_pipelines.ingest.conversations import turns
from data_pipelines.ingest.conversations.cut import Piece
from data_pipelines.ingest.conversations.read import Decoded
from data_pipelines.store import columns
from data_pipelines.store.columns import PREFIXES, identity_of
from data_pipelines.store.schema import Feature

_CANDIDATES = 60  # frames that a portrait is chosen from


class Writer:
    """Makes the clips of a dataset.

    Args:
      found: the conversations, all of as many speakers.
      pieces: of cut.plan.
      components: numbers in a face code; 0 where there are no pictures.
      size: of the crops.
      landmarks: the kind of the recordings' landmarks.
    """

    def __init__(self, found: Sequence[Decoded], pieces: dict[str, list[Piece]], components: int,
                 size: int, landmarks: str | None = None):
        self.found, self.pieces, self.size = found, pieces, size
        self.speakers = len(found[0].names)
        self.seen = components > 0
        self.landmarks = landmarks if self.seen else None
        self.face_width = len(found[0].faces[0]) if found[0].faces else None
        self.components = components
        self.faces, self.portraits, self.pose = {}, {}, {}
        if self.seen:
            for name in sorted({n for one in found for n in one.names}):
                crops = self._crops(name)
                self.faces[name] = eigenface.fit(crops, components)
                self.portraits[name] = portrait(crops)
            self.pose = pose_codec(np.concatenate(
                [self._speaker(i, k).pose[a:b] for i, a, b in pieces["train"]
                 for k in range(self.speakers)]))

    def items(self, split: str) -> list:
        """A function a piece, which makes its clips."""
        return [functools.partial(self._clips, *piece) for piece in self.pieces[split]]

    @property
    def features(self) -> dict[str, Feature]:
        out = columns.of_clip() | columns.of_dialogue()
        for prefix in PREFIXES[:self.speakers]:
            out |= columns.of_speaker(prefix, pictures=self.size if self.seen else None,
                                      face=self.components or None, pose=self.seen, activity=True,
                                      face_embedding=self.face_width)
            out |= landmark_features(self.landmarks, prefix)
            if self.seen:
                out[prefix + "pose_z"] = Feature((None, 7), "float32", "pose, z-scored over the "
                                                 "training clips", "", FPS)
        return out

    @property
    def recipes(self) -> dict[str, dict]:
        out = {"audio": recordings.AUDIO_RECIPE}
        if self.seen:
            out |= codec_recipes(self.size, self.components, self.landmarks, self.codecs)
        return out

    @functools.cached_property
    def codecs(self) -> dict[str, dict]:
        return {"face": eigenface.pack(self.faces), "pose": self.pose} if self.seen else {}

    def _speaker(self, index: int, k: int) -> recordings.Recording:
        return self.found[index].speaker(k)

    def _crops(self, name: str) -> np.ndarray:
        """Of the speaker's training pieces, at most FIT_FRAMES, spread evenly."""
        mine = [(i, a, b) for i, a, b in self.pieces["train"] if name in self.found[i].names]
        step = max(1, math.ceil(sum(b - a for _, a, b in mine) / FIT_FRAMES))
        # a view would keep all
        return np.concatenate([self._speaker(i, self.found[i].names.index(name)).crops[a:b:step]
                               .copy() for i, a, b in mine])

    def _clips(self, index: int, first: int, last: int) -> list[dict]:
        one = self.found[index]
        said = told(one, first / FPS, last / FPS)
        names, id = one.names, f"{one.id}-{first:06d}"
        sides = [self._side(index, k, first, last) for k in range(self.speakers)]
        out = []
        for me in range(self.speakers):
            order = [me, *(k for k in range(self.speakers) if k != me)]
            row = {"id": f"{id}/{me}", "side": str(me), "mended": corpus.mended(*one.mended),
                   "text": script.of_events(said.events, names=names, words=said.words).text
                   if one.has_text else "", "events": json.dumps(said.events)}
            for prefix, k in zip(PREFIXES, order, strict=False):
                side = sides[k] | {"words": json.dumps(said.words[k]),
                                   "activity": json.dumps(said.activity[k])}
                if self.seen and me and k != me:
                    side["pictures"] = side["pictures"][:0]
                row |= {prefix + column: value for column, value in side.items()}
            out.append(row)
        return out

    def _side(self, index: int, k: int, first: int, last: int) -> dict:
        name, recording = self.found[index].names[k], self._speaker(index, k)
        out = {"speaker": name, "identity": identity_of(name),
               "audio": recording.audio[first * SAMPLES:last * SAMPLES]}
        if self.seen:
            pose, crops = recording.pose[first:last], np.asarray(recording.crops[first:last])
            out |= {"pictures": crops, "portrait": self.portraits[name],
                    "face": self.faces[name].encode(crops), "pose": pose,
                    "pose_z": (pose - self.pose["mean"]) / self.pose["std"]}
        if self.face_width:
            out[columns.FACE_EMBEDDING] = np.asarray(self.found[index].faces[k], np.float32)
        if self.landmarks:
            out["landmarks"] = recording.landmarks[first:last]
        return out


class Part:
    """What is said in a piece of a conversation, timed from its start: events, words and activity
    of each speaker."""

    def __init__(self, utterances, words, activity):
        self.events = turns.events(utterances)
        self.words, self.activity = words, activity


def told(one: Decoded, start: float, end: float) -> Part:
    """What is said from `start` to `end` seconds. An utterance across an end is cut there: by its
    words' times, else by the share of it that is inside."""
    utterances = []
    for k, text, a, b in one.utterances:
        inside = max(0.0, min(b, end) - max(a, start))
        if inside < min(0.1, 0.5 * (b - a)) or inside <= 0:
            continue
        if inside < b - a - 1e-6:
            text = _inside(text, one.words[k], a, b, start, end)
        if text or not one.has_text:
            utterances.append((k, text, max(a, start) - start, min(b, end) - start))

    def moved(spans):
        return [[*x[:-2], round(max(x[-2], start) - start, 4), round(min(x[-1], end) - start, 4)]
                for x in spans if min(x[-1], end) - max(x[-2], start) > 0.5 * (x[-1] - x[-2])]

    return Part(utterances, [moved(w) for w in one.words], [moved(a) for a in one.activity])


def _inside(text: str, words, a: float, b: float, start: float, end: float) -> str:
    parts = text.split()
    own = [w for w in words if a - 0.05 <= (w[1] + w[2]) / 2 <= b + 0.05]
    if len(own) == len(parts):
        return " ".join(p for p, w in zip(parts, own, strict=True)
                        if start <= (w[1] + w[2]) / 2 < end)
    first, last = (round((min(max(t, a), b) - a) / (b - a) * len(parts)) for t in (start, end))
    return " ".join(parts[first:last])


@functools.cache
def _eyes():
    return cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_eye_tree_eyeglasses.xml")


def portrait(crops: np.ndarray) -> np.ndarray:
    """Of crops (N, size, size, 3), one that looks at the viewer with open eyes: two eyes are found
    in it (by a cascade that was trained on open ones), and its halves mirror each other most."""
    at = np.unique(np.linspace(0, len(crops) - 1, _CANDIDATES).astype(int))
    greys = [cv2.cvtColor(crops[k], cv2.COLOR_RGB2GRAY) for k in at]
    alike = np.array([_mirrored(grey) for grey in greys])
    best = alike.argmax()
    # the first with two eyes is the best of those; looking for eyes takes long
    for k in np.argsort(-alike, kind="stable"):
        if alike[k] + 1 <= alike[best]:
            break
        if _has_eyes(greys[k]):
            best = k
            break
    return crops[at[best]].copy()


def _mirrored(grey: np.ndarray) -> float:
    """How much the halves of a face mirror each other, -1 to 1."""
    small = cv2.resize(grey, (48, 48), interpolation=cv2.INTER_AREA).astype(np.float32)
    inner = small[10:40, 10:38]
    return np.nan_to_num(np.corrcoef(inner.ravel(), inner[:, ::-1].ravel())[0, 1])


def _has_eyes(grey: np.ndarray) -> bool:
    large = cv2.resize(grey, (256, 256), interpolation=cv2.INTER_CUBIC)
    return len(_eyes().detectMultiScale(large[40:160], 1.05, 3, minSize=(20, 20))) == 2
