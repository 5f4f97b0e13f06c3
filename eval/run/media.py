"""What models made, as files: OUT/media/SPLIT/VARIANT/ID.mp4 and .wav.

Ids are quoted as in URLs where a file's name cannot hold them ("a/b" is "a%2Fb").
"""

import pathlib
import urllib.parse
import zlib

from avjax.storage import atomic, failures
from data_pipelines.media import write_media
from eval.report.media import fit_sound

FOLDER = "media"
_PLAIN = " ()+,=@"  # stays as it is


def keep(out_dir, benchmark, split: str, variant: str, index: int, signals) -> dict[str, int]:
    """Writes what is seen and heard of one variant of one example.

    Returns:
      {path below `out_dir`: CRC-32 of the file}; empty of what is neither seen nor heard.
    """
    name = urllib.parse.quote(benchmark.source(split).ids[index], safe=_PLAIN)
    stem = pathlib.Path(out_dir, FOLDER, split, variant, name)
    stem.parent.mkdir(parents=True, exist_ok=True)
    rate = benchmark.sample_rate
    wave_N = signals.waveform if signals.has_audio else None
    written = []
    if wave_N is not None:
        written.append(stem.with_name(f"{name}.wav"))
        with atomic.file(written[-1], shared=True) as temporary:
            write_media.write_wav(temporary, wave_N.clip(-1, 1), rate)
    frames = (benchmark.pictures(signals.streams, benchmark.identity(split, index))
              if signals.has_motion else None)
    if frames is not None and len(frames):
        written.append(stem.with_name(f"{name}.mp4"))
        fps = benchmark.picture_fps
        sound_N = None if wave_N is None else fit_sound(wave_N, len(frames) / fps, rate)
        with failures.working_on(written[-1]):
            write_media.write_mp4(written[-1], frames, fps, sound_N, rate)
    return {path.relative_to(out_dir).as_posix(): zlib.crc32(path.read_bytes())
            for path in written}


def intact(out_dir, files: dict[str, int] | None) -> bool:
    """Whether files that `keep` wrote are there as it wrote them. None: it was never called."""
    if files is None:
        return False
    try:
        return all(zlib.crc32(pathlib.Path(out_dir, name).read_bytes()) == crc
                   for name, crc in files.items())
    except FileNotFoundError:
        return False
