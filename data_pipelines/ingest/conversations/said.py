"""What a conversation's transcripts say, on its clock and by its speakers' indices.

A transcript of one speaker goes by the clock of that speaker's sound, one of all by the clock of
the first. Without times, what is said is laid over the times at which its speaker is heard
(avjax/encoders/voice_activity); without a transcript, those are turns without words.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from avjax.encoders import voice_activity
from avjax.encoders.voice_activity.detector import own_speech
from data_pipelines.ingest.common.recordings import RATE
from data_pipelines.ingest.conversations import checks, turns
from data_pipelines.ingest.conversations.find import Conversation
from data_pipelines.media import transcripts
from data_pipelines.media.transcripts import Said
from data_pipelines.store.dataset import Unusable

BY_ACTIVITY = "turns timed by voice activity"
MARKS = "marks left out of the transcript"
UNTOLD = "no transcript"
UNNAMED = "what the transcript says of no speaker, left out"
_SILENT = 0.5  # seconds of speech up to which somebody may be missing in a transcript
_SWAPPED = 6.0  # dB by which another's channel is louder where channels are swapped
_FRAME = checks.HOP / RATE  # seconds


@dataclasses.dataclass(frozen=True)
class Told:
    """utterances: (speaker, text, start, end), seconds; words: of every speaker, [(word, start,
    end)]; activity: of every speaker, [(start, end)] of sound that is speech; mended: what was
    done; has_text: whether the speakers' words are known."""

    utterances: list[tuple[int, str, float, float]]
    words: list[list[tuple[str, float, float]]]
    activity: list[list[tuple[float, float]]]
    mended: tuple[str, ...]
    has_text: bool


def read(found: Conversation, durations: Sequence[float], shifts: Sequence[float],
         end: float) -> list[Said]:
    """Everything the transcripts say, with times on the common clock; speakers by their labels,
    where the files know them.

    Args:
      durations: of every speaker's sound, seconds.
      shifts: of every speaker's sound, to the common clock.
      end: of the first speaker's sound file.

    Raises transcripts.TranscriptError, UserError.
    """
    out = []
    labels = [s.label for s in found.speakers]
    known = () if found.by_order or not labels else tuple(labels)
    if found.transcripts:
        origin = shifts[0] if shifts else 0.0
        out += [_moved(s, origin) for s in transcripts.read(
            found.transcripts, names=known, duration=end)]
    for one, seconds, shift in zip(found.speakers, durations, shifts, strict=True):
        if one.transcripts:
            own = transcripts.read(one.transcripts, names=(one.label,), duration=seconds)
            out += [dataclasses.replace(_moved(s, shift), speaker=one.label) for s in own]
    return out


def _moved(one: Said, shift: float) -> Said:
    if one.start is None or not shift:
        return one
    words = tuple((w, a + shift, b + shift) for w, a, b in one.words)
    return dataclasses.replace(one, start=one.start + shift, end=one.end + shift, words=words)


def names_of(said: Sequence[Said]) -> list[str]:
    """The speakers that a transcript names, in the order of first speaking."""
    return list(dict.fromkeys(s.speaker for s in said if s.speaker))


def owners(said: Sequence[Said], names: Sequence[str], audio: Sequence[np.ndarray],
           begin: float) -> tuple[list[int] | None, float]:
    """Whose channel is whose, by who is loud where only one is said to speak: (of each name, its
    channel; dB by which that fits better than the given order), or (None, 0) where nothing tells.

    begin: of the audio, seconds on the transcript's clock.
    """
    power_CT = checks.power(audio)
    active_ST = np.zeros((len(names), power_CT.shape[1]), bool)
    for one in said:
        if one.speaker in names and one.start is not None:
            spans = [(a, b) for _, a, b in one.words] or [(one.start, one.end)]
            for a, b in spans:
                first, last = (round((x - begin) / _FRAME) for x in (a, b))
                active_ST[names.index(one.speaker), max(first, 0):max(last, 0)] = True
    alone_T = active_ST.sum(0) == 1
    solo = [active & alone_T for active in active_ST]
    if not all(x.sum() * _FRAME >= 0.2 for x in solo):
        return None, 0.0
    # each channel in its own loudness: microphones differ
    usual_C = power_CT.mean(1) + 1e-12
    fits_SC = np.stack([10 * np.log10(power_CT[:, x].mean(1) / usual_C + 1e-6) for x in solo])
    order = linear_sum_assignment(-fits_SC)[1]
    gain = float(min(fits_SC[s, c] - fits_SC[s, s] for s, c in enumerate(order) if s != c)
                 if list(order) != list(range(len(names))) else 0.0)
    return list(map(int, order)), gain


def check_swapped(said, labels, audio, begin: float, where: str) -> None:
    """Raises Unusable: by the transcript, somebody is heard in another's channel."""
    order, gain = owners(said, labels, audio, begin)
    if order and order != list(range(len(labels))) and gain >= _SWAPPED:
        raise Unusable("channels swapped", where=where, expected="everybody loud in the own "
                       "channel while speaking alone, by the transcript",
                       found=", ".join(f"{labels[s]} in that of {labels[c]}"
                                       for s, c in enumerate(order) if s != c),
                       hint="exchange the files' names, or the transcript's speakers")


def told(said: Sequence[Said], labels: Sequence[str], audio: Sequence[np.ndarray], begin: float,
         seconds: float, detector: voice_activity.Detector) -> Told:
    """What is said between `begin` and `begin + seconds`, timed from there.

    audio: (N,) float of every speaker, from `begin` on; detector: of the times at which they speak.
    """
    activity = own_speech(detector(audio, RATE), audio, RATE)
    heard = [np.round(spans, 4).tolist() for spans in activity]
    utterances, words, mended = [], [[] for _ in labels], []
    if any(s.text and s.speaker not in labels for s in said):
        mended.append(UNNAMED)
    by_speaker = [[s for s in said if s.speaker == label and s.text] for label in labels]
    silent = [label for label, own, spans in zip(labels, by_speaker, activity, strict=True)
              if not own and np.diff(spans, axis=1).sum() > _SILENT]
    if silent:
        if any(by_speaker):
            mended.append("transcript not used: it lacks a speaker")
        mended.append(UNTOLD)
        return Told([(k, "", float(a), float(b)) for k, spans in enumerate(activity)
                     for a, b in spans], words, heard, tuple(mended), False)
    for k, own in enumerate(by_speaker):
        untimed = [s for s in own if s.start is None]
        if untimed:
            mended.append(BY_ACTIVITY)
            placed = turns.placed(untimed, activity[k])  # counts from `begin`
            own = [s for s in own if s.start is not None] + [_moved(s, begin) for s in placed]
        for one in own:
            text, dropped = turns.spoken(one.text)
            mended += [MARKS] if dropped else []
            start, end = max(one.start - begin, 0.0), min(one.end - begin, seconds)
            if not text or end - start < 0.02:
                continue
            utterances.append((k, text, start, end))
            words[k] += [(w, round(a - begin, 4), round(b - begin, 4)) for w, a, b in one.words
                         if begin <= a and b <= begin + seconds]
    return Told(utterances, [sorted(w, key=lambda x: x[1]) for w in words], heard,
                tuple(dict.fromkeys(mended)), True)
