"""Timed words -> phrases, and the turns of a dialogue by the rules of a user's own conversations.

Words with pauses of at most BRIDGED seconds make a phrase.
"""

from collections.abc import Sequence

from data_pipelines.ingest.conversations import turns

BRIDGED = 0.5  # seconds, inside a phrase: as is done with this corpus where it has no VAD

Word = tuple[str, float, float]  # what, from, to: seconds


def spans(words: Sequence[Word]) -> list[list[float]]:
    """[[start, end], ...] of speech: words, with their pauses of up to BRIDGED seconds filled."""
    return turns.joined([(start, end) for _, start, end in words], BRIDGED)


def events(words: Sequence[Sequence[Word]]) -> list[dict]:
    """Turns, back-channels and what is between them (`turns.events`), of each speaker's words."""
    utterances = []
    for who, mine in enumerate(words):
        for start, end in spans(mine):
            said = " ".join(word for word, a, _ in sorted(mine, key=lambda w: w[1])
                            if start <= a <= end)
            utterances.append((who, said, start, end))
    return turns.events(utterances)


def text(found: Sequence[dict]) -> str:
    """What was said, as the puppets' dialogues have it: "[0] Hello. [1:yeah] [1] Hi." """
    marked = [f"[{e['speaker']}] {e['text']}" if e["kind"] == "turn" else
              f"[{e['speaker']}:{e['text']}]"
              for e in found if e["kind"] in ("turn", "backchannel")]
    return " ".join(marked)
