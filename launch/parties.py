"""Writes a dialogue: sound and pictures of every party, and of all together.

    OUT.<name>.wav, OUT.<name>.mp4   one party, its own clean channel
    OUT.wav, OUT.mp4                 the mix; everybody side by side, in the order of the portraits

Everything lasts equally long, a whole number of pictures. All is written aside and renamed when the
last file is whole.
"""

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Sequence

import numpy as np

from avjax.errors import UserError
from data_pipelines.media import write_media

PEAK = 0.99  # loudest sample that is written


def write(out: pathlib.Path, parties: Sequence[dict[str, np.ndarray]], names: Sequence[str],
          decoder) -> dict[str, pathlib.Path]:
    """The files, {"<name>.wav", "<name>.mp4", ..., "wav", "mp4": path}; no mp4 where there is
    nothing to see.

    Args:
      out: path without extension.
      parties: streams of each.
      names: of each, fit for files.
      decoder: data_pipelines.decode.Decoder.
    """
    if not decoder.has_audio(parties[0]):
        raise UserError("nothing was generated", where=str(out), expected="at least one frame",
                        found="0",
                        hint="train longer, or write a longer script")
    sounds, rate, fps = [decoder.waveform(party)
                         for party in parties], decoder.sample_rate, decoder.fps
    drawn = [decoder.pictures(party) for party in parties] if decoder.has_motion(parties[0]) else []
    count = drawn[0][0] if drawn else round(max(map(len, sounds)) / rate * fps)
    sounds = level([fitted(sound, round(count / fps * rate)) for sound in sounds])
    mix = np.sum(sounds, axis=0)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = pathlib.Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        files = [f"{name}.wav" for name in names] + ["wav"]
        for file, sound in zip(files, [*sounds, mix], strict=True):
            write_media.write_wav(aside / file, sound, rate)
        if drawn:
            films = [file.removesuffix("wav") + "mp4" for file in files]
            writers = [write_media.Mp4Writer(aside / film, fps, sound, rate)
                       for film, sound in zip(films, [*sounds, mix], strict=True)]
            write_films(writers, [pictures for _, pictures in drawn])
            files += films
        return {file: (aside / file).replace(out.with_name(f"{out.name}.{file}")) for file in files}
    finally:
        shutil.rmtree(aside)


def level(sounds: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The channels, all made softer by the same factor where one of them or their sum would
    clip."""
    loudest = max(np.abs(x).max(initial=0.0) for x in [*sounds, np.sum(sounds, axis=0)])
    return [np.asarray(x * min(1.0, PEAK / max(loudest, 1e-9)), np.float32) for x in sounds]


def fitted(sound_N: np.ndarray, samples: int) -> np.ndarray:
    """Cut or filled with silence."""
    return np.pad(sound_N[:samples], (0, max(0, samples - len(sound_N))))


def write_films(writers: Sequence[write_media.Mp4Writer],
                pictures: Sequence[Iterable[np.ndarray]]) -> None:
    """Every party's pictures into a film of its own, and all side by side into the last; each is
    drawn once."""
    with contextlib.ExitStack() as stack:
        films = [stack.enter_context(writer) for writer in writers]
        for shown in zip(*pictures, strict=True):
            for film, picture_HWC in zip(films, [*shown, np.concatenate(shown, axis=1)],
                                         strict=True):
                film.add(picture_HWC)
