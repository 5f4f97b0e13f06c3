"""Writes what was generated: sound and pictures of one speaker, or of every speaker of a dialogue
and of all together.

    OUT.wav, OUT.mp4                 one speaker; or the mix, and all side by side in the order of
                                     the portraits
    OUT.vertices.npy                 (N, V, 3) float32 at the pictures' rate, of a Codec Avatar
                                     whose geometry was given (data_pipelines/geometry.py)
    OUT.<name>.wav, OUT.<name>.mp4   one speaker of a dialogue, on a clean channel
    OUT.expression_codes.npy, OUT.headpose.npy   motion in the layout of a corpus' owners, where
                                     they have one: for their renderer
    OUT.tokens.npy                   that a text became on the way

The files of a dialogue last equally long, a whole number of pictures. All files of a request are
written into a hidden folder, then moved to their places one after the other. OUT.json, the record
of what was made before (launch/jobs/requests/files.py), is removed first and whoever asked for the
request writes its own last: files without it are not all there.
"""

import contextlib
import pathlib
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from tqdm import tqdm

from avjax.errors import UserError
from avjax.storage import atomic
from data_pipelines import decode
from data_pipelines.media import write_media
from data_pipelines.prompting import Prompt
from launch.jobs.requests import files

PEAK = 0.99  # loudest sample that is written
Streams = Mapping[str, np.ndarray]


def write(out: pathlib.Path, streams: Streams, decoder: decode.Decoder, prompt: Prompt,
          latents: bool = False) -> dict[str, pathlib.Path]:
    """The files written, {"wav", "mp4", "npz", "vertices", "<array>.npy"} and of a dialogue
    {"<name>.wav", "<name>.mp4"}; those that there are.

    Args:
      out: path without extension.
      streams: as generated.
      prompt: whose face is drawn, and the names of several speakers.
      latents: write the streams too, as OUT.npz.
    """
    with together(out) as inside:
        paths = _write(inside, streams, decoder, prompt, latents)
    return placed(out, paths)


@contextlib.contextmanager
def together(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Files OUT.* that come together: yields the path, without extension, that they are written to
    meanwhile. After an error none is there, and what was there before still is."""
    aside = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)  # of one that was killed
    aside.mkdir(parents=True)
    try:
        yield aside / out.name
        files.record_file(out.parent, out.name).unlink(missing_ok=True)
        for path in sorted(aside.iterdir()):
            path.replace(out.with_name(path.name))
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def placed(out: pathlib.Path, paths: Mapping[str, pathlib.Path]) -> dict[str, pathlib.Path]:
    """Where files are that were written by `together`."""
    return {kind: out.with_name(path.name) for kind, path in paths.items()}


def _write(out: pathlib.Path, streams: Streams, decoder: decode.Decoder, prompt: Prompt,
           latents: bool) -> dict[str, pathlib.Path]:
    paths = {}
    if latents:
        paths["npz"] = suffixed(out, "npz")
        with atomic.file(paths["npz"]) as aside:
            save(aside, streams)
    paths |= write_arrays(out, {n: streams[n] for n in decoder.family.arrays if n in streams})
    if not decoder.family.heard:
        return paths
    if prompt.speakers:
        return paths | _write_dialogue(out, decoder.speakers(streams), prompt.speakers, decoder,
                                       prompt.identity)
    streams, = decoder.speakers(streams)
    if not decoder.has_audio(streams):
        raise UserError("nothing was generated", where=prompt.task, expected="at least one frame",
                        found="0", hint="train longer, or raise --config.system.min_patches")
    sound = decoder.waveform(streams)
    paths["wav"] = suffixed(out, "wav")
    with atomic.file(paths["wav"]) as aside:
        write_media.write_wav(aside, sound, decoder.sample_rate)
    if not decoder.has_motion(streams):
        return paths
    if decoder.geometry:
        paths["vertices"] = write_vertices(suffixed(out, "vertices.npy"), decoder, streams)
    paths |= write_arrays(out, decoder.family.owners_arrays(streams))
    if not (prompt.shown or decoder.can_draw(streams)):
        kept = latents or decoder.geometry or any(n.endswith(".npy") for n in paths)
        print(f"no picture: nothing here can draw this motion"
              f"{'' if kept else '; --save_latents keeps it'}", file=sys.stderr, flush=True)
        return paths
    if prompt.shown:
        fps, pictures = prompt.shown()
    else:
        fps = decoder.fps
        _, pictures = decoder.pictures(streams, speaker=prompt.speaker, identity=prompt.identity)
    count = max(1, round(len(sound) / decoder.sample_rate * fps))
    paths["mp4"] = suffixed(out, "mp4")
    shown = tqdm(held(pictures, count), total=count, unit="picture", desc="drawing",
                 file=sys.stderr, delay=5, mininterval=1)
    write_media.write_mp4(paths["mp4"], shown, fps, audio=sound, rate=decoder.sample_rate)
    return paths


def suffixed(out: pathlib.Path, suffix: str) -> pathlib.Path:
    """OUT.suffix, where OUT may hold dots."""
    return out.with_name(f"{out.name}.{suffix}")


def save(path: pathlib.Path, streams: Streams) -> None:
    """An .npz of any name."""
    with open(path, "wb") as file:
        np.savez(file, **streams)


def write_arrays(out: pathlib.Path, arrays: Streams) -> dict[str, pathlib.Path]:
    """OUT.<name>.npy of each; {"<name>.npy": path}."""
    paths = {f"{name}.npy": suffixed(out, f"{name}.npy") for name in arrays}
    for name, array in arrays.items():
        with atomic.file(paths[f"{name}.npy"]) as aside, open(aside, "wb") as file:
            np.save(file, array)
    return paths


def write_vertices(path: pathlib.Path, decoder: decode.Decoder, streams: Streams) -> pathlib.Path:
    """Some frames at a time; the file's path."""
    codes_NF, avatar = decoder.face(streams), decoder.geometry.avatar
    with atomic.aside(path) as aside:
        shape = (len(codes_NF), *avatar.mean_V3.shape)
        file = np.lib.format.open_memmap(aside, "w+", np.float32, shape)
        first = 0
        for part in avatar.chunks(codes_NF):
            file[first:first + len(part)] = part
            first += len(part)
        file.flush()
    return path


def held(pictures: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """`count` pictures: as long as the sound, the last one held where motion ends earlier."""
    last = None
    for _ in range(count):
        last = next(pictures, last)
        yield last


def write_dialogue(out: pathlib.Path, speakers: Sequence[Streams], names: Sequence[str],
                   decoder: decode.Decoder, identities=None) -> dict[str, pathlib.Path]:
    """The files of a dialogue, {"<name>.wav", "<name>.mp4", ..., "wav", "mp4": path}; no mp4 where
    there is nothing to see.

    Args:
      out: path without extension.
      speakers: streams of each.
      names: of each, fit for files.
      identities: of each, whose puppet is drawn where streams are of no pictures.
    """
    with together(out) as inside:
        paths = _write_dialogue(inside, speakers, names, decoder, identities)
    return placed(out, paths)


def _write_dialogue(out: pathlib.Path, speakers: Sequence[Streams], names: Sequence[str],
                    decoder: decode.Decoder, identities) -> dict[str, pathlib.Path]:
    if not decoder.has_audio(speakers[0]):
        raise UserError("nothing was generated", where="the dialogue",
                        expected="at least one frame", found="0",
                        hint="train longer, or write a longer script")
    rate, fps = decoder.sample_rate, decoder.fps
    sounds = [decoder.waveform(speaker) for speaker in speakers]
    drawn = []
    if decoder.has_motion(speakers[0]):
        whose = [{}] * len(speakers) if identities is None else [{"identity": x}
                                                                 for x in identities]
        drawn = [decoder.pictures(speaker, **one)
                 for speaker, one in zip(speakers, whose, strict=True)]
    count = drawn[0][0] if drawn else round(max(map(len, sounds)) / rate * fps)
    sounds = level([fitted(sound, round(count / fps * rate)) for sound in sounds])
    mix = np.sum(sounds, axis=0)
    heard = [f"{name}.wav" for name in names] + ["wav"]
    for name, sound in zip(heard, [*sounds, mix], strict=True):
        write_media.write_wav(suffixed(out, name), sound, rate)
    films = [name.removesuffix("wav") + "mp4" for name in heard] if drawn else []
    if films:
        writers = [write_media.Mp4Writer(suffixed(out, name), fps, sound, rate)
                   for name, sound in zip(films, [*sounds, mix], strict=True)]
        write_films(writers, [pictures for _, pictures in drawn])
    return {name: suffixed(out, name) for name in heard + films}


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
    """Every speaker's pictures into a film of its own, and all side by side into the last; each is
    drawn once."""
    with contextlib.ExitStack() as stack:
        films = [stack.enter_context(writer) for writer in writers]
        for shown in zip(*pictures, strict=True):
            for film, picture_HWC in zip(films, [*shown, np.concatenate(shown, axis=1)],
                                         strict=True):
                film.add(picture_HWC)
