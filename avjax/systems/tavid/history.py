"""What all speakers said before a piece of a dialogue, as each part of TAVID takes it.

    said    the units of the piece before, whose text this piece's text begins with: the text part
            reads that text with its times, has said those units, and goes on
    heard   the last units of everything made so far, with their sound: the acoustic part and the
            Motion Mapper go on from them

    silence a second of it from everybody, which the Motion Mapper sees behind a piece that another
            follows: at a dialogue's end heads come to rest, and in the next piece they would jump

`heard` begins on the clock of all pieces at a multiple of TURN units, where a unit and a mel frame
begin together, so that frames of a piece are those it would have in one go.

Suffixes: B batch (of one in `History`), N text ids, U units, T mel frames, S speakers, M mel bands.
"""

import numpy as np

from avjax.systems.api import Batch, System
from avjax.systems.tavid.acoustic.expand import HOP, mel_frames

TURN = HOP  # units: 441 mel frames later both begin together again
LONGEST = 2 * TURN  # units of `heard`; fewer than that are real
SLOWER = 1.25  # the next piece may be spoken so much more slowly than the one before
FOLLOWING = 50  # units of `silence`
HEARD = ("heard", "heard_length", "heard_mel")
SAID = ("said", "said_length", "said_times", "said_tokens")


def looked_back(begin: int) -> int:
    """Units of `heard`, of a piece that begins at unit `begin` of the dialogue."""
    return begin % TURN + TURN * (begin >= TURN)


def followed(units_1US: np.ndarray, length: int, silence: int, room: int) -> Batch:
    """{"units", "units_length"}: the first `length`, then FOLLOWING of `silence`, in `room`."""
    out = np.full((1, room, units_1US.shape[2]), silence, units_1US.dtype)
    out[:, :length] = units_1US[:, :length]
    return {"units": out, "units_length": np.array([length + FOLLOWING], np.int32)}


class History:
    """What was made of one dialogue so far, as far back as its next piece looks.

    Args:
      system: has `context`, the units that its text part has seen at once in training.
    """

    def __init__(self, system: System):
        self._context = system.context
        streams, bands = system.streams_spec["units"].shape[2], system.streams_spec["mel"].shape[3]
        self._begin = 0  # units of all pieces so far
        self._units = np.zeros((1, 0, streams), np.int32)  # the last of them
        self._mel = np.zeros((1, 0, streams, bands), np.float32)
        self._last = self._units  # those of the piece before
        self._times = np.zeros((1, 0), np.float32)  # of its own text, from its first unit on

    def before(self, conditions: Batch) -> Batch:
        """The conditions of the next piece, of which `said_tokens` text ids are those of the piece
        before, with `said` and `heard` of fixed sizes. Where both would be longer than the model
        has seen at once, the text begins with what is new."""
        count, length = int(conditions["said_tokens"][0]), self._last.shape[1]
        new = int(conditions["tokens_length"][0]) - count
        if not count or not length or length * (1 + SLOWER * new / max(count, 1)) > self._context:
            conditions, count, length = _only_new(conditions), 0, 0
        room = conditions["room"].shape[1]
        times_1N = np.zeros(conditions["tokens"].shape, np.float32)
        times_1N[:, :count] = self._times[:, self._times.shape[1] - count:]
        heard = looked_back(self._begin)
        frames = mel_frames(heard)
        return conditions | {
            "said": _padded(self._last[:, :length], room), "said_times": times_1N,
            "said_length": np.array([length], np.int32),
            "heard": _padded(self._units[:, self._units.shape[1] - heard:], LONGEST),
            "heard_mel": _padded(self._mel[:, self._mel.shape[1] - frames:], mel_frames(LONGEST)),
            "heard_length": np.array([heard], np.int32)}

    def add(self, given: Batch, units_1US, mel_1TSM, times_1N) -> None:
        """What was made of the conditions `given`: units, the sound on the clock of all pieces, and
        the times of the text, or None where they are not known."""
        self._begin += units_1US.shape[1]
        self._last = np.asarray(units_1US)
        self._units = np.concatenate([self._units, self._last], axis=1)[:, -LONGEST:]
        mel_1TSM = np.asarray(mel_1TSM, np.float32)
        self._mel = np.concatenate([self._mel, mel_1TSM], axis=1)[:, -mel_frames(LONGEST):]
        tokens = int(given["tokens_length"][0])
        self._times = (np.zeros((1, tokens), np.float32) if times_1N is None
                       else np.asarray(times_1N)[:, :tokens] - given["said_length"])


def _only_new(conditions: Batch) -> Batch:
    """Without the text of the piece before, and the marks between the two."""
    count, length = int(conditions["said_tokens"][0]), int(conditions["tokens_length"][0])
    if not count:
        return conditions
    first = count + int(np.argmax(conditions["token_speaker"][0, count:length] >= 0))
    moved = {name: np.concatenate([conditions[name][:, first:]]
                                  + [conditions[name][:, -1:]] * first, axis=1)
             for name in ("tokens", "token_speaker")}
    return conditions | moved | {"tokens_length": np.array([length - first], np.int32),
                                 "said_tokens": np.zeros(1, np.int32)}


def _padded(x_1T, size: int):
    return np.pad(x_1T, [(0, 0), (0, size - x_1T.shape[1])] + [(0, 0)] * (x_1T.ndim - 2))
