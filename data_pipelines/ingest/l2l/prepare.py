"""Learning to Listen -> clips: 64 frames of a listener's face, the speaker's face and voice.

    NAME/{train,test}/p{0,1}_list_faces_clean_deca.npy    (N, 64, 184) at 30 Hz, who listens
    NAME/{train,test}/p{0,1}_speak_faces_clean_deca.npy   (N, 64, 184), who speaks
    NAME/{train,test}/p{0,1}_speak_audio_clean_deca.npy   (N, 256, 128), their spectrogram
    NAME/{train,test}/p{0,1}_speak_files_clean_deca.npy   (N, 64, 3) text: video, person, frame

p0 sits left and p1 right, so clip i of p0 who listens belongs to clip i of p1 who speaks. NAME is a
channel (conan, devi2, fallon, kimmel, stephen, trevor); NAME_data.tar is read as it is. A frame of
DECA is 50 of expression, then 6 of pose (rotation vectors of the head and of the jaw), then 128 of
skin detail, which are left out. DIM's conversions have the pose first: --order=pose.

There is no waveform, so nothing that needs sound is extracted from these clips; they are what
listening is scored on. Licence of the corpus: that of its owners (research).
"""

import functools
import json
import re
from collections.abc import Iterator
from typing import Annotated

import numpy as np

from avjax.errors import UserError
from avjax.signal import rates
from data_pipelines.declared import Ingest, MaxBad, Option
from data_pipelines.ingest.common import arrays
from data_pipelines.ingest.common import corpus as common
from data_pipelines.ingest.common.corpus import Corpus, mended
from data_pipelines.ingest.common.files import Files
from data_pipelines.store import columns
from data_pipelines.store.dataset import Unusable
from data_pipelines.store.schema import Feature

FPS, FRAMES = rates.VIDEO, 64
WIDTHS = (184, 56)  # with and without skin detail
BANDS, PER_FRAME = 128, 4  # of the spectrogram
UNNAMED = "pairs whose speak_files are missing, no plain text or of other clips: origin left empty"
BLOCK = 64  # clips that are read at once
# where the parts of a frame are, by what comes first
ORDERS = {"expression": {"face": slice(0, 50), "rotation": slice(50, 53), "jaw": slice(53, 56)},
          "pose": {"rotation": slice(0, 3), "jaw": slice(3, 6), "face": slice(6, 56)}}
_NAME = re.compile(r"(?P<folder>.+/)?(?P<split>train|test)/p(?P<person>[01])_"
                   r"(?P<kind>list_faces|speak_faces|speak_audio|speak_files)_clean_deca\.npy")


def corpus(source, *, order: str = "expression") -> Corpus:
    """Lists blocks of clips. Raises UserError: damaged archive, one channel twice."""
    files = Files(source, (".npy",))
    pairs = {}
    for name in files:
        if match := _NAME.fullmatch(name):
            listens = match["kind"].startswith("list")
            listener = int(match["person"]) if listens else 1 - int(match["person"])
            pairs[match["folder"] or "", match["split"], listener] = None
    folders = {folder for folder, _, _ in pairs}
    if len({folder.rstrip("/").rpartition("/")[2] for folder in folders}) < len(folders):
        raise UserError("one channel twice", where=str(source), expected="a folder a channel",
                        found=", ".join(sorted(folders)), hint="name the folder above one of them")
    found = Listing(files, order)
    items, unnamed = {}, 0
    for folder, split, listener in sorted(pairs, key=lambda pair: (pair[1] == "test", pair)):
        items[split] = items.get(split, []) + found.items(folder, split, listener)
        unnamed += found.names(folder, split, listener) is None
    return Corpus(
        name="l2l", description="Learning to Listen (Ng et al. 2022): DECA's codes of a listener "
        "and a speaker, and the speaker's spectrogram; no sound, no skin detail.",
        features=_features(), items=items, read=found.read,
        recipes={"face": {"kind": "deca expression", "width": 50, "rate": FPS},
                 "partner_spectrogram": {"kind": "librosa melspectrogram", "bands": BANDS,
                                         "rate": FPS * PER_FRAME}},
        told={UNNAMED: unnamed})


class Listing:
    """What was found, and how a block of it is read."""

    def __init__(self, files: Files, order: str):
        self._files, self._parts = files, ORDERS[order]

    def _names(self, folder: str, split: str, listener: int) -> dict[str, str]:
        def path(person, kind):
            return f"{folder}{split}/p{person}_{kind}_clean_deca.npy"

        return {"face": path(listener, "list_faces"), "partner": path(1 - listener, "speak_faces"),
                "sound": path(1 - listener, "speak_audio"),
                "files": path(1 - listener, "speak_files")}

    def items(self, folder: str, split: str, listener: int) -> list[list]:
        """Blocks of a pair; one of nothing where the pair is refused, which reading tells."""
        names = self._names(folder, split, listener)
        sizes = [self._files.size(name) for name in names.values()]
        count = arrays.length(self._files, names["face"]) or 1
        return [[folder, split, listener, first, min(BLOCK, count - first), sizes]
                for first in range(0, count, BLOCK)]

    def names(self, folder: str, split: str, listener: int) -> np.ndarray | None:
        """(N, 64, 3) text; None where it is missing, not plain or of other clips."""
        names = self._names(folder, split, listener)
        try:
            return arrays.read(self._files, names["files"],
                               (arrays.length(self._files, names["face"]), FRAMES, 3), kinds="US")
        except Unusable:
            return None

    def read(self, item: list) -> Iterator[dict | Unusable]:
        """The clips of a block. Raises Unusable where the pair is unusable."""
        folder, split, listener, first, count, _ = item
        channel = folder.rstrip("/").rpartition("/")[2] or self._files.root.resolve().name
        pair = f"{channel}-{split}-p{listener}"
        names = self._names(folder, split, listener)
        try:
            face, partner = (self._faces(names[k]) for k in ("face", "partner"))
            sound = arrays.read(self._files, names["sound"], (None, PER_FRAME * FRAMES, BANDS),
                                kinds="f")
            if not len(face):
                raise Unusable("no clips", where=self._files.where(names["face"]),
                               expected="one or more", found=str(face.shape))
            if not len(face) == len(partner) == len(sound):
                raise Unusable("numbers of clips differ", where=self._files.where(names["face"]),
                               found=f"{len(face)} of the listener, {len(partner)} of the speaker, "
                                     f"{len(sound)} of sound")
        except Unusable as error:
            error.of(f"{pair}-{first:06d}")
            raise
        origin = self.names(folder, split, listener)
        for i in range(first, first + count):
            where = self._files.where(names["face"])
            try:
                yield self._clip(f"{pair}-{i:06d}", channel, listener, face[i], partner[i],
                                 sound[i], None if origin is None else origin[i], where)
            except Unusable as error:
                yield error.of(f"{pair}-{i:06d}")

    def _faces(self, name: str) -> np.ndarray:
        """(N, 64, 56 or more)."""
        return arrays.read(self._files, name, *((None, FRAMES, width) for width in WIDTHS),
                           kinds="f")

    def _clip(self, id, channel, listener, face, partner, sound, origin, where) -> dict:
        notes, clip = [], {"id": id}
        for prefix, x, person in (("", face, listener), ("partner_", partner, 1 - listener)):
            who = f"{channel}-p{person}"
            if (bad := arrays.not_finite(x)).any():
                notes.append("frames that are not finite, interpolated")
                x = arrays.filled(x, bad, where)
            clip |= {f"{prefix}speaker": who, f"{prefix}identity": columns.identity_of(who)}
            clip |= {prefix + name: np.array(x[:, part], np.float32)
                     for name, part in self._parts.items()}
        if not np.isfinite(sound).all():
            raise Unusable("sound is not finite", where=where)
        return clip | {"partner_spectrogram": np.array(sound, np.float32),
                       "origin": _origin(origin), "mended": mended(*dict.fromkeys(notes))}


def _origin(names) -> str:
    """JSON [video, first frame, last frame] of a clip's (64, 3) names."""
    if names is None:
        return ""
    text = [x.decode(errors="replace") if isinstance(x, bytes) else str(x)
            for x in (names[0, 0], names[0, 2], names[-1, 2])]
    return json.dumps(text, ensure_ascii=False)


def _features() -> dict[str, Feature]:
    out = columns.of_clip(text=False)
    for prefix in columns.PREFIXES[:2]:
        out |= columns.of_speaker(prefix, audio=None, face=50, words=False)
    out["origin"] = Feature((), "str", "JSON [video, first frame, last frame]")
    for prefix in ("", "partner_"):
        out[f"{prefix}face"] = Feature((None, 50), "float32", "expression of DECA", "", FPS)
        out[f"{prefix}rotation"] = Feature((None, 3), "float32", "head: rotation vector of DECA",
                                           "rad", FPS)
        out[f"{prefix}jaw"] = Feature((None, 3), "float32", "jaw: rotation vector of DECA", "rad",
                                      FPS)
    out["partner_spectrogram"] = Feature((None, BANDS), "float32", "the speaker's voice: "
                                         "librosa's mel spectrogram, as released", "",
                                         FPS * PER_FRAME)
    return out


def prepare(
    source, out, *,
    order: Annotated[str, Option("what comes first in a frame: expression in the release, pose in "
                                 "DIM's conversions", tuple(ORDERS))] = "expression",
    max_bad: MaxBad = 0.5, parallel=None, progress: bool = True,
):
    """Makes the dataset; see data_pipelines/ingest/common/corpus.py."""
    return common.prepare(corpus, source, out, dict(order=order), max_bad=max_bad,
                          parallel=parallel, progress=progress)


DATASET = Ingest(prepare, in_parts=True, made_of=functools.partial(common.made_of, corpus))
