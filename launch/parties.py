"""Writes a dialogue: sound and pictures of every party, and of all together.

    OUT.<name>.wav, OUT.<name>.mp4   one party, its own clean channel
    OUT.wav, OUT.mp4                 the mix; everybody side by side, in the order of the portraits

Everything lasts equally long, a whole number of pictures. All is written aside and renamed when the last file is whole.
"""

import pathlib
import shutil
import tempfile
from collections.abc import Sequence

import numpy as np
import soundfile

from avjax.errors import UserError
from data_pipelines import media

PEAK = 0.99  # loudest sample that is written


def write(out: pathlib.Path, parties: Sequence[dict[str, np.ndarray]], names: Sequence[str], decoder) -> dict[str, pathlib.Path]:
    """The files, {"<name>.wav", "<name>.mp4", ..., "wav", "mp4": path}; no mp4 where there is nothing to see.

    Args:
      out: path without extension.
      parties: streams of each.
      names: of each, fit for files.
      decoder: data_pipelines.decode.Decoder.
    """
    if not decoder.has_audio(parties[0]):
        raise UserError("nothing was generated", where=str(out), expected="at least one frame", found="0",
                        way_out="train longer, or write a longer script")
    sounds, rate, fps = [decoder.waveform(party) for party in parties], decoder.sample_rate, decoder.fps
    pictures = [decoder.frames(party) for party in parties] if decoder.has_motion(parties[0]) else []
    count = len(pictures[0]) if pictures else round(max(map(len, sounds)) / rate * fps)
    sounds = level([fitted(sound, round(count / fps * rate)) for sound in sounds])
    mix = np.sum(sounds, axis=0)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = pathlib.Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        files = [f"{name}.wav" for name in names] + ["wav"]
        for file, sound in zip(files, [*sounds, mix], strict=True):
            soundfile.write(aside / file, sound, rate, format="WAV")
        shown = [*pictures, beside(pictures)] if pictures else []
        for file, sound, frames in zip(files.copy(), [*sounds, mix], shown, strict=False):
            files.append(file.removesuffix("wav") + "mp4")
            media.write_mp4(aside / files[-1], frames, fps, audio=sound, rate=rate)
        return {file: (aside / file).replace(out.with_name(f"{out.name}.{file}")) for file in files}
    finally:
        shutil.rmtree(aside)


def level(sounds: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The channels, all made softer by the same factor where one of them or their sum would clip."""
    loudest = max(np.abs(x).max(initial=0.0) for x in [*sounds, np.sum(sounds, axis=0)])
    return [np.asarray(x * min(1.0, PEAK / max(loudest, 1e-9)), np.float32) for x in sounds]


def fitted(sound_N: np.ndarray, samples: int) -> np.ndarray:
    """Cut or filled with silence."""
    return np.pad(sound_N[:samples], (0, max(0, samples - len(sound_N))))


def beside(pictures: Sequence[np.ndarray]):
    """One picture after the other, of everybody side by side."""
    for shown in zip(*pictures, strict=True):
        yield np.concatenate(shown, axis=1)
