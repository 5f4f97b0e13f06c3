"""Files of somebody who talks with an avatar -> what it hears and sees of them.

    a.wav a.mp3 ...       their voice, alone
    a.mp4 a.mov ...       their voice, and face and head where the model's faces are eigenfaces
    A--expression.npy     (N, width) at 30 Hz: SMIRK's 50 expression, 2 eyelid and 3 jaw numbers, or
                          whatever the clips' partner_face are; not scaled
    A--headpose.npy       (N, 3) at 30 Hz: their head's rotation vector, radians
    A.npy                 (M, 29) or (channels, M, 29): CTC logits as AV-Flow's owners keep them

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
from data_pipelines.features.common import filmed

RATE = mel.RECIPE["sample_rate"]
FPS = rates.VIDEO  # of expression and head
EXPRESSION, HEAD, TOKENS = "partner_expression", "partner_head", "partner_tokens"
_ENDS = {"--expression": EXPRESSION, "--headpose": HEAD}
_SUFFIXES = (*media.AUDIO_SUFFIXES, *media.VIDEO_SUFFIXES, ".npy")


@dataclasses.dataclass
class Found:
    """Of one partner; what the files do not tell is None or absent.

    Attributes:
      sound: the file with it.
      logits: the file with them, and how many channels they have.
      raw: {stream: (frames, width)}: expression and head at FPS in the clips' units; NaN in gaps.
      remarks: lines that the user should see.
    """

    sound: pathlib.Path | None = None
    logits: tuple[pathlib.Path, int] | None = None
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
            if stream != TOKENS:
                _add(found.raw, stream, array, path)
            elif found.logits:
                raise _twice(TOKENS, path)
            else:
                found.logits = path, len(array) if array.ndim == 3 else 1
            continue
        if found.sound:
            raise _twice("sound", path)
        found.sound = path
        if media.probe(path).video and widths.keys() & {EXPRESSION, HEAD}:
            kind = recipes.get(EXPRESSION, {}).get("kind", "")
            if kind != "eigenface":
                found.remarks.append(
                    f"warning: {path.name}: nothing here reads faces of kind {kind!r} off pictures;"
                    " give them as .npy, else the partner's face is at rest")
                continue
            for stream, array in _pictured(path, codecs.get("face", {}), speaker).items():
                if stream in widths:
                    _add(found.raw, stream, array, path)
    return found


def is_file(name: str) -> bool:
    """Whether a name means a file, there or not, rather than an example of a dataset."""
    path = pathlib.Path(name)
    return path.exists() or path.suffix.lower() in _SUFFIXES


def _add(raw: dict, stream: str, array: np.ndarray, path: pathlib.Path) -> None:
    if stream in raw:
        raise _twice(stream, path)
    raw[stream] = array


def _twice(what: str, path: pathlib.Path) -> UserError:
    return UserError(f"{what} twice", where="--partner", found=str(path),
                     hint="leave one of the files out")


def _array(path: pathlib.Path, widths: Mapping[str, int]) -> tuple[str, np.ndarray]:
    """(stream, (frames, width) float32, of tokens as they are) of an .npy file."""
    expected = ", ".join(f"(frames, {width}) of {name}" for name, width in widths.items())
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError("not an array", where=f"--partner={path}", expected=expected,
                        found=str(error)) from error
    named = next((stream for end, stream in _ENDS.items() if path.stem.endswith(end)), None)
    fits = [stream for stream, width in widths.items() if array.shape[-1:] == (width,)
            and (array.ndim == 2 or (stream == TOKENS and array.ndim == 3))]
    stream = named if named in fits else fits[0] if len(fits) == 1 and not named else None
    if stream is None or array.dtype.kind != "f" or not array.size:
        raise UserError("an array of another shape", where=f"--partner={path}", expected=expected,
                        found=f"{array.shape} {array.dtype}",
                        hint="end its name in --expression or --headpose" if len(fits) > 1 else "")
    array = np.asarray(array, np.float32)
    return stream, np.where(np.isfinite(array), array, np.float32(np.nan))


def _pictured(path: pathlib.Path, codec: Mapping, speaker: str) -> dict[str, np.ndarray]:
    """{stream: (N, width)} of a film: eigenface codes, and the head's roll by the face's box."""
    own = eigenface.unpack(codec, filmed.whose(path, codec, speaker, "--partner_speaker"))
    heard = media.read_sound(path, RATE)
    codes_NK, pose_N7 = filmed.read(path, heard.start, heard.end, own)
    return {EXPRESSION: codes_NK, HEAD: rotation_vector(pose_N7[:, :4])}
