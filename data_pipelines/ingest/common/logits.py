"""Speech tokens that AV-Flow's release brings for its corpora: CTC logits of wav2vec2-base-960h for
both voices, each where its own speaker was heard to speak ("vad100").

    .../wav2vec2_fairseq_base_ls960_asr_ls960_vad100/NAME.npy   (2, M, 29) floats
"""

import re

import numpy as np

from data_pipelines.features.common import ctc
from data_pipelines.ingest.common import arrays
from data_pipelines.ingest.common.files import Files
from data_pipelines.store.dataset import Unusable
from data_pipelines.store.schema import Feature

FOLDER = re.compile(r"wav2vec2_fairseq_base_ls960_asr_ls960(_vad\d+)?")
USUAL = "wav2vec2_fairseq_base_ls960_asr_ls960_vad100"
WIDTH = ctc.WIDTH
RATE = 50  # Hz; nominal, see _RATE
RECIPE = {"kind": ctc.KIND, "values": "logits", "weights": ctc.OWNERS}
# 100 s of sound give 4999 frames; [ours] share and frames that a file may differ by
_RATE, _APART, _FRAMES = 49.99, 0.001, 3


def column(whose: str) -> Feature:
    return Feature((None, WIDTH), "float32", f"CTC logits of {whose} voice, by the corpus' owners",
                   "", RATE)


def place_of(files: Files) -> dict[str, str]:
    """{folder that has such a folder: that folder}, of the folders' names; with a voice activity
    before without."""
    found = {}
    for name in files:
        folder, _, file = name.rpartition("/")
        parent, _, last = folder.rpartition("/")
        if FOLDER.fullmatch(last) and file.endswith(".npy"):
            found[parent] = max(found.get(parent, ""), folder)
    return found


def read(files: Files, name: str, heard: float, kept: float) -> np.ndarray:
    """(2, M, 29) float32 of the first `kept` seconds of sound of which `heard` were read.

    Raises Unusable: as arrays.read, "tokens of another length", "tokens are not finite".
    """
    x_2MC = np.array(arrays.read(files, name, (2, None, WIDTH), kinds="f"), np.float32)
    wanted = heard * _RATE
    if abs(x_2MC.shape[1] - wanted) > _FRAMES + _APART * wanted:
        raise Unusable("tokens of another length", where=files.where(name),
                       expected=f"about {wanted:.0f} frames", found=str(x_2MC.shape[1]))
    if not np.isfinite(x_2MC).all():
        raise Unusable("tokens are not finite", where=files.where(name))
    return x_2MC[:, : index(min(heard, kept), x_2MC.shape[1], heard)]


def index(seconds: float, count: int, total: float) -> int:
    """The first of `count` frames of `total` seconds that is not before `seconds`: of chunks of
    100 s where their number says so, else evenly."""
    chunks, left = divmod(total, 100)
    if abs(count - chunks * 4999 - max(0.0, left * RATE - 0.25)) > _FRAMES:
        return round(seconds / total * count)
    chunk, left = divmod(seconds, 100)
    return min(count, round(chunk * 4999 + min(left * RATE, 4999)))
