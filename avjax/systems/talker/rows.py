"""The layout of utterances in a training row: numpy, no jax. Several whole utterances are packed
into one row, so that every batch has one shape and hardly any padding, for any lengths.

    tokens    task | prompt ... | slot slot slot slot | task | prompt ... | slot slot | 0 0 0
    segment   1      1            1    1    1    1       2     2            2    2      0 0 0
    position  0      1 ...                               0     1 ...
    patches   j = 0..3 of utterance 1, then 0..1 of utterance 2, then padding (patch_slot =
              number of tokens)

A slot is the LM position whose input is a patch. Motion is stored beside the speech of the same
time; the model shifts it by `delay`, which is why an utterance takes max(speech patches, motion
patches + delay) slots.

The chat template's tail after the slots is left out: nothing before it can see it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avjax.codecs.motion import check_apart
from avjax.errors import UserError
from avjax.systems.api import Rows
from avjax.systems.talker.config import T2AV, TTS

SPEECH = "speech"  # a view: utterances without their motion


def check_ids(tokens: np.ndarray, vocabulary: int | None, where: str) -> np.ndarray:
    """The ids of a prompt, UserError if one is outside the vocabulary (the embedding would take its
    last row)."""
    if vocabulary is not None and len(tokens) and not 0 <= np.min(tokens) <= np.max(
        tokens) < vocabulary:
        raise UserError("text ids outside the model's vocabulary", where=where,
                        expected=f"0 to {vocabulary - 1}",
                        found=f"{np.min(tokens)} to {np.max(tokens)}",
                        hint="set config.system.vocab to the tokenizer's, or extract with that "
                        "tokenizer")
    return tokens


@dataclasses.dataclass(frozen=True)
class TalkerRows(Rows):
    """Sizes in tokens, patches, utterances; `max_frames` is the longest clip trained on; `balance`
    draws utterances with and without motion equally often; `vocabulary`: the text ids there are,
    None = any; `speech_alone`: motion is left out, so that every utterance is text to speech."""

    views = (SPEECH,)

    tokens: int
    patches: int
    utterances: int
    patch: int
    delay: int
    audio_dim: int
    motion_dim: int
    voice_dim: int
    max_frames: int
    balance: bool = True
    vocabulary: int | None = None
    speech_alone: bool = False

    def view(self, name: str) -> "TalkerRows":
        """See Rows.view."""
        return dataclasses.replace(self, speech_alone=name == SPEECH)

    @property
    def capacity(self) -> dict[str, int]:
        return {"tokens": self.tokens, "patches": self.patches, "utterances": self.utterances}

    def patch_counts(self, audio_frames: int, motion_frames: int) -> tuple[int, int, int]:
        """(speech patches, motion patches, slots). A partial last patch counts for speech and not
        for motion, as published."""
        audio_frames, motion_frames = min(audio_frames,
                                          self.max_frames), min(motion_frames, self.max_frames)
        if self.speech_alone:
            motion_frames = 0
        speech = -(-audio_frames // self.patch)
        motion = max(motion_frames // self.patch, 1) if motion_frames else 0
        return speech, motion, max(speech, motion + self.delay if motion else 0)

    def cost(self, lengths: Mapping[str, int]) -> dict[str, int]:
        """Tokens, patches and utterances of a row that one of these lengths takes."""
        slots = self.patch_counts(lengths["audio"], lengths["motion"])[2]
        return {"tokens": 1 + lengths["tokens"] + slots, "patches": slots, "utterances": 1}

    def kind(self, lengths: Mapping[str, int]) -> str:
        """Utterances without motion train speech alone."""
        alone = self.speech_alone or not lengths["motion"]
        return "tts" if self.balance and alone else "t2av"

    def build(self, examples: Sequence[Mapping[str, Any]],
              rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One row of `System.batch_spec`. Clips longer than `max_frames` are cut at random, as
        published."""
        N, J, P = self.tokens, self.patches, self.patch
        row = {"tokens": np.zeros(N, np.int32), "segment": np.zeros(N, np.int32),
               "position": np.zeros(N, np.int32), "patch_slot": np.full(J, N, np.int32),
               "patch_segment": np.zeros(J, np.int32), "patch_index": np.zeros(J, np.int32),
               "audio_valid": np.zeros(J, np.int32), "motion_valid": np.zeros(J, np.int32),
               "audio": np.zeros((J * P, self.audio_dim), np.float32),
               "motion": np.zeros((J * P, self.motion_dim), np.float32),
               "speaker": np.zeros((self.utterances, self.voice_dim), np.float32)}
        n = j = 0
        for segment, example in enumerate(examples, 1):
            n, j = self._place(row, n, j, segment, example, rng)
        for name in ("audio", "motion"):
            row[name] = row[name].reshape(J, P, -1)
        return row

    def _place(self, row, n: int, j: int, segment: int, example, rng) -> tuple[int, int]:
        audio, motion = self._cut(example, rng)
        tokens = check_ids(example["tokens"], self.vocabulary, f"example {example.get('id', '')!r}")
        speech_patches, motion_patches, slots = self.patch_counts(len(audio), len(motion))
        end, first = n + 1 + len(tokens) + slots, n + 1 + len(tokens)
        if end > self.tokens or j + slots > self.patches or segment > self.utterances:
            raise UserError("an utterance does not fit its row",
                            where=f"example {example.get('id', '')!r}",
                            expected=f"at most {self.capacity}",
                            found=f"{end} tokens, {j + slots} patches",
                            hint="raise config.system.row_tokens and row_patches")
        row["tokens"][n] = T2AV if len(motion) else TTS
        row["tokens"][n + 1:first] = tokens
        row["segment"][n:end] = segment
        row["position"][n:end] = np.arange(end - n)
        here = slice(j, j + slots)
        row["patch_slot"][here] = np.arange(first, end)
        row["patch_segment"][here] = segment
        row["patch_index"][here] = np.arange(slots)
        audio, motion = audio[:speech_patches * self.patch], motion[:motion_patches * self.patch]
        for name, frames in (("audio", audio), ("motion", motion)):
            row[name][j * self.patch:j * self.patch + len(frames)] = frames
            row[f"{name}_valid"][here] = np.clip(len(frames) - self.patch * np.arange(slots), 0,
                                                 self.patch)
        row["speaker"][segment - 1] = example["voice"]
        return end, j + slots

    def _cut(self, example, rng) -> tuple[np.ndarray, np.ndarray]:
        audio, motion = example["audio"], example["motion"][:0 if self.speech_alone else None]
        if len(motion):
            check_apart(len(audio), len(motion), f"example {example.get('id', '')!r}",
                        "extract the dataset again")
        start = int(rng.integers(max(len(audio) - self.max_frames, 0) + 1))
        return tuple(x[start:start + self.max_frames] for x in (audio, motion))
