"""Files of somebody who talks with an avatar -> what it hears and sees of them.

    a.wav a.mp3 ...       their voice, alone
    a.mp4 a.mov ...       their voice, and face and head where the model's faces are eigenfaces
    A--expression.npy     (N, width) at 30 Hz: SMIRK's 50 expression, 2 eyelid and 3 jaw numbers, or
                          whatever the clips' partner_face are; not scaled
    A--headpose.npy       (N, 3) at 30 Hz: their head's rotation vector, radians
    A.npy                 (M, width) or (2, M, width): speech tokens as AV-Flow's owners keep them,
                          of a conversation those of channel 1

Arrays are told apart by their names' ends, others by their shapes. Frames that are not finite are
gaps.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from avjax.codecs import eigenface
from avjax.errors import UserError
from avjax.signal import mel, rates
from data_pipelines import media
from data_pipelines.features.avflow.partner import rotation_vector
from data_pipelines.media import faces

RATE = mel.RECIPE["sample_rate"]
FPS = rates.VIDEO  # of expression and head
EXPRESSION, HEAD, TOKENS = "partner_expression", "partner_head", "partner_tokens"
_ENDS = {"--expression": EXPRESSION, "--headpose": HEAD}
_AT_ONCE = 64  # pictures that are encoded together


@dataclasses.dataclass
class Found:
    """Of one partner; what the files do not tell is None.

    Attributes:
      audio_N: float samples at RATE.
      raw: {stream: (frames, width)}: expression and head at FPS in the clips' units, and tokens at
        their encoder's rate; NaN in gaps.
      remarks: lines that the user should see.
    """

    audio_N: np.ndarray | None = None
    raw: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    remarks: list[str] = dataclasses.field(default_factory=list)


def read(names: Sequence[str], widths: Mapping[str, int], recipes: Mapping[str, dict],
         codecs: Mapping[str, Mapping[str, np.ndarray]], speaker: str = "") -> Found:
    """What the files tell of what a model takes.

    Args:
      widths: {stream: numbers in a frame} that the model takes.
      recipes, codecs: of the model's data.
      speaker: whose eigenfaces they are; default the one that a film is named after.

    Raises UserError: a file that is missing or of another kind, two that tell the same.
    """
    found = Found()
    for name in names:
        path = pathlib.Path(name)
        if not path.is_file():
            raise UserError("no such file", where="--partner", found=name,
                            expected="files of a partner, or SPLIT/ID of a dataset")
        if path.suffix.lower() == ".npy":
            stream, array = _array(path, widths)
            _add(found.raw, stream, array, path)
            continue
        if found.audio_N is not None:
            raise UserError("two partners", where="--partner", found=name,
                            expected="one file with sound", hint="mix them first")
        heard = media.read_sound(path, RATE)
        media.say(path, heard)
        found.audio_N = heard.samples
        if media.probe(path).video and widths.keys() & {EXPRESSION, HEAD}:
            kind = recipes.get(EXPRESSION, {}).get("kind", "")
            if kind != "eigenface":
                found.remarks.append(
                    f"warning: {path.name}: nothing here reads faces of kind {kind!r} off pictures;"
                    " give them as .npy, else the partner's face is at rest")
                continue
            for stream, array in _pictured(path, heard, codecs.get("face", {}), speaker).items():
                if stream in widths:
                    _add(found.raw, stream, array, path)
    return found


def _add(raw: dict, stream: str, array: np.ndarray, path: pathlib.Path) -> None:
    if stream in raw:
        raise UserError(f"{stream} twice", where="--partner", found=str(path),
                        hint="leave one of the files out")
    raw[stream] = array


def _array(path: pathlib.Path, widths: Mapping[str, int]) -> tuple[str, np.ndarray]:
    """(stream, (frames, width) float32) of an .npy file."""
    expected = ", ".join(f"(frames, {width}) of {name}" for name, width in widths.items())
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError("not an array", where=f"--partner={path}", expected=expected,
                        found=str(error)) from error
    named = next((stream for end, stream in _ENDS.items() if path.stem.endswith(end)), None)
    fits = [stream for stream, width in widths.items() if array.shape[-1:] == (width,)
            and (array.ndim == 2 or (stream == TOKENS and array.ndim == 3 and len(array) == 2))]
    stream = named if named in fits else fits[0] if len(fits) == 1 and not named else None
    if stream is None or array.dtype.kind != "f" or not array.size:
        raise UserError("an array of another shape", where=f"--partner={path}", expected=expected,
                        found=f"{array.shape} {array.dtype}",
                        hint="end its name in --expression or --headpose" if len(fits) > 1 else "")
    return stream, np.asarray(array[1] if array.ndim == 3 else array, np.float32)


def _pictured(path: pathlib.Path, heard, codec: Mapping, speaker: str) -> dict[str, np.ndarray]:
    """{stream: (N, width)} of a film, read a few pictures at a time: eigenface codes, and the
    head's roll by the face's box."""
    known = sorted({name.rpartition("/")[0] for name in codec})
    speaker = speaker or (path.stem if path.stem in known else "")
    if speaker not in known:
        raise UserError("whose face is this?", where="--partner_speaker",
                        expected=" or ".join(known), found=repr(speaker) if speaker else "none",
                        hint="eigenfaces are a person's own: name a speaker of the training data, "
                             "or give a file with sound alone")
    def pictures(**size):
        return (image for _, image in media.frames_at(path, FPS, heard.start, heard.end, **size))

    track = faces.follow(pictures(max_side=faces.SHRINK), FPS)
    own = eigenface.unpack(codec, speaker)
    cropper = faces.Cropper(track, own.shape[0], FPS)
    codes, crops = [], []
    for k, image in enumerate(pictures()):
        crops.append(cropper(k, image))
        if len(crops) == _AT_ONCE or k == len(track.width) - 1:
            codes.append(own.encode(np.array(crops)))
            crops = []
    return {EXPRESSION: np.concatenate(codes), HEAD: rotation_vector(track.pose()[:, :4])}
