"""Face embeddings that a recogniser of the user's has made (insightface's 512 numbers): of the
clips' own column, or of files.

    --face_embeddings=clips     the column `face_embedding` (F,) of every speaker, which
                                avjax prepare --face_embeddings writes
    --face_embeddings=FOLDER    FOLDER/SPEAKER.face.npy, or FOLDER/CLIP.face.npy of a clip of one
                                speaker, which comes first
"""

import pathlib

import numpy as np

from avjax.encoders import portrait
from avjax.errors import UserError
from data_pipelines.store import dataset as store
from data_pipelines.store.columns import FACE_EMBEDDING as COLUMN

CLIPS, SUFFIX = "clips", ".face.npy"


class GivenFaces:
    """Looks embeddings up; nothing is computed. `width`: F.

    Raises UserError: no such column or folder, or nothing in it.
    """

    def __init__(self, where: str, clips, prefixes):
        self._prefixes, self._folder, self._names = prefixes, None, ()
        if where == CLIPS:
            lacking = [p + COLUMN for p in prefixes if p + COLUMN not in clips.features]
            if lacking:
                raise UserError("clips without face embeddings", where=str(clips.dir),
                                expected=", ".join(p + COLUMN for p in prefixes),
                                found=f"no {lacking[0]}", hint="give their folder instead")
            self.width = clips.features[prefixes[0] + COLUMN].shape[-1]
            return
        self._folder = pathlib.Path(where)
        found = sorted(self._folder.glob(f"*{SUFFIX}")) if self._folder.is_dir() else []
        if not found:
            raise UserError("no face embeddings", where=f"--face_embeddings={where}",
                            expected=f"a folder of SPEAKER{SUFFIX} or CLIP{SUFFIX}, or clips",
                            found="a folder of others" if self._folder.is_dir() else "no folder")
        self._names = {path.name for path in found}
        first = np.load(found[0], allow_pickle=False, mmap_mode="r")
        self.width = first.shape[-1] if first.ndim else 1

    def __call__(self, clip, speakers) -> np.ndarray:
        """(S, F) float32. Raises store.Unusable for a speaker without one, UserError for one of
        another width."""
        if self._folder is None:
            return np.stack([np.asarray(clip[p + COLUMN], np.float32) for p in self._prefixes])
        return np.stack([self._read(clip["id"] if len(speakers) == 1 else "", name)
                         for name in speakers])

    def _read(self, clip_id: str, speaker: str) -> np.ndarray:
        for name in (clip_id, speaker):
            if name and (file := name.replace("/", "_") + SUFFIX) in self._names:
                return portrait.read(self._folder / file, self.width)
        raise store.Unusable("no face embedding", expected=f"{speaker}{SUFFIX} in {self._folder}",
                             found="none")
