"""Puppets as Talker-T2AV-Data: face and head on a 25 Hz clock are its 40-d motion."""

import numpy as np
import pytest
import soxr

from avjax.signal import resample
from data_pipelines.puppets import build
from tests.data_pipelines.talker_tree import COLUMNS, torch_file, wav_bytes


@pytest.fixture(scope="session")
def puppets_dataset(tmp_path_factory):
    return build.prepare(tmp_path_factory.mktemp("puppets") / "p", sentences=5, speakers=2, valid=1,
                         test=1,
                         progress=False)


@pytest.fixture(scope="session")
def puppets(puppets_dataset):
    """[(id, speaker, text, (N,) int16 at 24 kHz, (T, 40) float16 at 25 Hz)] of a few puppets'
    sentences."""
    dataset, rows = puppets_dataset, []
    for clip in dataset.source("train"):
        audio = soxr.resample(clip["audio"], dataset.features["audio"].rate, 24000)
        times = np.arange(len(audio) // 960) / 25
        motion = np.concatenate([resample.interpolate(clip[name],
                                                      times * dataset.features[name].rate)
                                 for name in ("face", "pose_z")], 1)
        rows.append((clip["id"], clip["speaker"], clip["text"], audio,
                     np.pad(motion, [(0, 0), (0, 40 - motion.shape[1])]).astype(np.float16)))
    return rows


@pytest.fixture(scope="session")
def files(puppets):
    """({path: bytes} of the whole data set, its table)."""
    out, table = {}, []
    for name, speaker, text, audio, motion in puppets:
        out[f"audio/{name}.wav"], out[f"motion/{name}.pt"] = wav_bytes(audio), torch_file(motion)
        out[f"video/{name}.mp4"] = b"pictures are not read"
        table.append(dict(zip(COLUMNS, (name, speaker, "train", text, f"audio/{name}.wav",
                                        f"motion/{name}.pt", f"video/{name}.mp4", str(len(motion)),
                                        "25"), strict=True)))
    return out, table
