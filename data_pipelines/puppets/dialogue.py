"""Two to four puppets talk: turns, gaps and overlaps, back-channels that a listener nods and smiles
to, every channel known.

All channels are as long as the dialogue and speak on one clock. What happened is in `events`, times
in seconds:
    {"kind": "turn" | "backchannel", "speaker": 0 | 1 | ..., "start", "end", "text"}
    {"kind": "overlap" | "gap" | "pause", "start", "end"}   (pause: silence inside a turn)
"""

import dataclasses

import numpy as np

from avjax.encoders import espeak
from data_pipelines.puppets import text, voice
from data_pipelines.puppets.performance import Reaction


@dataclasses.dataclass
class Channel:
    """One speaker's side of a dialogue."""

    name: str
    identity: np.ndarray
    audio: np.ndarray
    phonemes: list
    words: list
    reactions: list[Reaction]


@dataclasses.dataclass
class Dialogue:
    """`text` marks turns: "[0] Hello. [1] Hi! [0:yeah] ..." with back-channels as
    [speaker:words]."""

    channels: tuple[Channel, ...]
    events: list[dict]
    text: str
    duration: float


def converse(speakers: list[tuple[str, np.ndarray]], turns: list[str],
             rng: np.random.Generator, silent: float = 0.0) -> Dialogue:
    """Speakers take turns. About a third of the turns begin before the one before ends; a listener
    reacts at the speaker's pauses and, now and then, after a while of listening.

    Args:
      speakers: two to four of (name, identity).
      turns: what is said. Two alternate, the first speaker first; of more, each has spoken once
        before anybody speaks again, and after that whoever has not just spoken may come next.
      silent: share of the reactions that are a nod and a smile without a word.
    """
    placed = []  # (speaker, start, utterance, kind, text)
    reactions = tuple([] for _ in speakers)
    clock, marked = 0.0, []
    several = len(speakers) > 2  # of two nothing is drawn, as before there were more
    for i, (who, words) in enumerate(zip(_order(len(speakers), len(turns), rng), turns,
                                         strict=True)):
        spoken = voice.speak(words, speakers[who][1])
        speech = (espeak.LEAD, spoken.duration - espeak.TRAIL)  # inside the utterance
        start = clock + (0.3 if not placed else _floor_transfer(rng)) - speech[0]
        if i >= 2 or several:  # never over oneself
            start = max([start, *(s + u.duration for w, s, u, _, _ in placed if w == who)])
        start = max(start, 0.0)
        placed.append((who, start, spoken, "turn", words))
        marked.append(f"[{who}] {words}")
        if rng.random() < 0.75:
            at = start + _reaction_point(spoken, rng)
            small = text.BACKCHANNELS[rng.integers(len(text.BACKCHANNELS))]
            listener = _another(who, len(speakers), rng)
            heard = voice.speak(small + ".", speakers[listener][1])
            free = all(w == who or s + u.duration <= at or at + heard.duration <= s for w, s, u, _,
                       _ in placed)
            inside = at + heard.duration < start + spoken.duration - 0.2
            if free and inside:
                begin = at + espeak.LEAD
                end = max(begin + 0.6, at + heard.duration - espeak.TRAIL)
                if not silent or rng.random() >= silent:
                    placed.append((listener, at, heard, "backchannel", small))
                    marked.append(f"[{listener}:{small}]")
                reactions[listener].append(Reaction(begin, end))
        clock = start + speech[1]
    duration = max(s + u.duration for _, s, u, _, _ in placed)
    channels = tuple(_channel(speakers[w], [p for p in placed if p[0] == w], reactions[w], duration)
                     for w in range(len(speakers)))
    return Dialogue(channels, _events(placed), " ".join(marked), duration)


def _order(speakers: int, turns: int, rng) -> list[int]:
    """Whose turn it is, turn by turn."""
    if speakers == 2:
        return [i % 2 for i in range(turns)]
    order = rng.permutation(speakers).tolist()
    while len(order) < turns:
        order.append(_another(order[-1], speakers, rng))
    return order[:turns]


def _another(who: int, speakers: int, rng) -> int:
    """One of the others."""
    if speakers == 2:
        return 1 - who
    return (who + 1 + int(rng.integers(speakers - 1))) % speakers


def _floor_transfer(rng) -> float:
    """Seconds from the end of one turn to the start of the next; below 0 they overlap."""
    return rng.uniform(-0.9, -0.25) if rng.random() < 0.35 else rng.uniform(0.05, 0.7)


def _reaction_point(spoken, rng) -> float:
    """Listeners answer where a phrase ends, or after two thirds of a turn without a break."""
    ends = [t1 for _, t1, _ in espeak.phrases_of(spoken.phonemes)[:-1]]
    return (ends[rng.integers(len(ends))] if ends else 0.6 * spoken.duration) - espeak.LEAD + 0.08


def _channel(speaker, placed, reactions, duration) -> Channel:
    audio = np.zeros(round(duration * espeak.SAMPLE_RATE), np.int16)
    phonemes, words = [], []
    for _, start, spoken, _, _ in sorted(placed, key=lambda p: p[1]):
        a = round(start * espeak.SAMPLE_RATE)
        end = min(a + len(spoken.audio), len(audio))
        audio[a:end] = spoken.audio[:end - a]
        begin = phonemes[-1][2] if phonemes else 0.0
        if start > begin + 1e-6:
            phonemes.append((espeak.SILENCE, begin, start))
        phonemes += [(s, start + t0, start + t1) for s, t0, t1 in spoken.phonemes]
        words += [(w, start + t0, start + t1) for w, t0, t1 in spoken.words]
    begin = phonemes[-1][2] if phonemes else 0.0
    if begin < duration - 1e-6:
        phonemes.append((espeak.SILENCE, begin, duration))
    return Channel(speaker[0], speaker[1], audio, phonemes, words,
                   sorted(reactions, key=lambda r: r.start))


def _events(placed) -> list[dict]:
    said = [{"kind": kind, "speaker": who, "start": start + espeak.LEAD, "end": start + u.duration
             - espeak.TRAIL,
             "text": words} for who, start, u, kind, words in placed]
    out = list(said)
    for i, a in enumerate(said):
        for b in said[i + 1:]:
            start, end = max(a["start"], b["start"]), min(a["end"], b["end"])
            if a["speaker"] != b["speaker"] and end > start:
                out.append({"kind": "overlap", "start": start, "end": end})
    turns = sorted((e for e in said if e["kind"] == "turn"), key=lambda e: e["start"])
    for a, b in zip(turns[:-1], turns[1:], strict=True):
        if b["start"] > a["end"]:
            out.append({"kind": "gap", "start": a["end"], "end": b["start"]})
    for _, start, u, kind, _ in placed:
        if kind == "turn":
            phrases = espeak.phrases_of(u.phonemes)
            out += [{"kind": "pause", "start": start + a[1], "end": start + b[0]}
                    for a, b in zip(phrases[:-1], phrases[1:], strict=True)]
    for e in out:
        e["start"], e["end"] = round(e["start"], 4), round(e["end"], 4)
    return sorted(out, key=lambda e: (e["start"], e["kind"]))
