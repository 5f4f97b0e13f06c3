"""What drives AV-Flow: text, speech, logits of speech or an example of a dataset -> the tokens it
was trained on, and who it is to be; and whom it listens to (listening.py).

The tokens' recipe says which front-end made them; nothing else is accepted, so a model of phonemes
is never fed units.
"""

import dataclasses
import pathlib
import types
from collections.abc import Mapping

import numpy as np

from avjax.encoders import espeak
from avjax.errors import UserError
from avjax.inference import padding
from avjax.signal import kmeans, mel, resample
from data_pipelines import media, prompting
from data_pipelines.features.avflow import listening, sound
from data_pipelines.features.common import ctc, heard
from data_pipelines.prompting import Prompt
from data_pipelines.store.schema import recipe_hash

MAX_CHARACTERS = 2000  # about two minutes of speech
STREAMED = 64  # frames (0.74 s) of a chunk that is heard while the next is made
CHUNK = 8192  # frames (95 s); what is longer is made chunk by chunk


class PromptBuilder(prompting.PromptBuilder):
    """Timed phonemes of a text, units or CTC logits of speech, or the tokens of an example."""

    TAKES = (prompting.TASK, prompting.TEXT, prompting.AUDIO, prompting.EXAMPLE, prompting.DATA,
             prompting.SPEAKER, prompting.LANGUAGE, *sound.INPUTS, *listening.INPUTS)
    SETTINGS = {"steps": ("euler_steps",), "guidance": ("guidance",),
                "temperature": ("temperature",)}

    def build(self, request, system, decoder) -> Prompt:
        """UserError for unusable text or audio and unknown speakers."""
        text, audio = request.text, request.audio
        drives = ("text", "audio", "tokens", "example")
        given = [name for name in drives if getattr(request, name)]
        if len(given) > 1 or not (given or request.partner):
            raise UserError("nothing to say" if not given else "two things to say",
                            where=", ".join(f"--{name}" for name in drives),
                            expected="exactly one of them",
                            found=" and ".join(given) or "none")
        if len(text) > MAX_CHARACTERS:
            raise UserError("text too long", where="--text",
                            expected=f"at most {MAX_CHARACTERS} characters", found=f"{len(text)}",
                            hint="split it into sentences and generate each")
        task = request.task or system.tasks[0]
        prompting.check_task(task, system)
        who = prompting.identities(decoder.codecs)
        recipe, remarks = decoder.recipes["tokens"], []
        sound.check(request, recipe)
        if request.language and not (text and decoder.text_to_tokens):
            raise UserError("a language without a network that reads text", where="--language",
                            expected="--text, and WORKDIR/text, a trained avflow.text",
                            hint="leave it out; docs/avflow_text.md says how to train one")
        listening.check(request)
        talks = request.partner or request.start
        hearing = listening.Hearing(request, decoder, tokens_from_audio)
        if request.example:
            row = prompting.read_example(request, system, decoder)
            speaker = request.speaker or row["speaker"]
            identity = row["identity"]
            if speaker != row["speaker"]:
                identity = who[prompting.choose_speaker(speaker, who)]
            conditions, frames = system.conditions(row | {"identity": identity}, task)
            if talks:
                said, remarks = listening.conversation(request, system, conditions["tokens"],
                                                       hearing)
                conditions = conditions | said
            return prompt_of(system, task, conditions, row["id"], speaker, identity, remarks)
        speaker = prompting.choose_speaker(request.speaker, who)
        tokens_TC, partners = None, {}
        learned = text and decoder.text_to_tokens
        if learned:
            tokens_TC, remarks = learned(text, request.language)
        elif text:
            tokens_TC = tokens_from_text(text, recipe, identity=who[speaker])
        elif recipe["kind"] == ctc.KIND and given:
            tokens_TC, remarks = sound.tokens(request, recipe, decoder.workdir)
        elif given:
            audio_N = media.read_audio(audio, mel.RECIPE["sample_rate"])
            tokens_TC = tokens_from_audio(audio_N, recipe, decoder.codecs)
            remarks = heard.remarks(audio_N, mel.RECIPE["sample_rate"], decoder.codecs, recipe)
        if talks:
            partners, told = listening.conversation(request, system, tokens_TC, hearing)
            tokens_TC, remarks = partners.pop("tokens"), (*remarks, *told)
        name = text or pathlib.Path(audio or request.tokens or request.partner).name
        return prompt_of(system, task, conditions_of(system, tokens_TC, who[speaker], partners),
                         name, speaker, who[speaker], tuple(remarks),
                         {"tokens": tokens_TC} if learned else {})

    def recut(self, prompt, system, frames):
        """Any number; by default `STREAMED`."""
        whole = {n: np.concatenate([piece[n] for piece in prompt.pieces]) if np.ndim(x) == 2 else x
                 for n, x in prompt.conditions.items()}
        return dataclasses.replace(prompt, pieces=pieces_of(whole, frames or STREAMED))


def conditions_of(system, tokens_TC: np.ndarray, identity: np.ndarray,
                  partners: Mapping[str, np.ndarray] = types.MappingProxyType({})
                  ) -> dict[str, np.ndarray]:
    """Conditions of tokens and the partner's streams; absent ones are zeros."""
    spec = system.conditions_spec
    prompting.check_fits(spec["tokens"], "tokens", tokens_TC)
    absent = {name: np.zeros((len(tokens_TC), spec[name].shape[-1]), np.float32)
              for name in spec if name.startswith("partner_")}
    values = {"tokens": tokens_TC, "identity": identity} | absent | dict(partners)
    return padding.complete(system, {n: values[n] for n in spec if n in values})


def prompt_of(system, task: str, conditions, name: str, speaker: str, identity,
              remarks: tuple[str, ...] = (), given: Mapping = types.MappingProxyType({})) -> Prompt:
    """In one piece, or in pieces of `CHUNK` frames where it is longer and the system can stream.
    given: see Prompt."""
    frames = len(conditions["tokens"])
    pieces = (conditions,)
    if frames > CHUNK and system.can_stream(task):
        pieces = pieces_of(conditions, CHUNK)
    return Prompt(task, pieces, frames, name, speaker=speaker, identity=identity,
                  remarks=remarks, seconds=frames / system.config.frame_rate, given=given)


def pieces_of(conditions, chunk: int) -> tuple[dict[str, np.ndarray], ...]:
    """Of `chunk` frames each, the last one of what is left."""
    return tuple({n: x[first:first + chunk] if np.ndim(x) == 2 else x
                  for n, x in conditions.items()}
                 for first in range(0, len(conditions["tokens"]), chunk))


def tokens_from_text(text: str, recipe: Mapping, *, identity: np.ndarray) -> np.ndarray:
    """(T, C) phoneme features on the features' clock; timing is espeak-ng's at this identity's
    speaking rate.

    Raises UserError when the model's tokens do not come from text, or the text has nothing to
    speak.
    """
    from data_pipelines.puppets import voice

    if recipe["kind"] != "phones":
        raise UserError("this model is not driven by text", where="recipes.json, tokens",
                        expected="kind phones, or WORKDIR/text, a trained avflow.text",
                        found=recipe["kind"], hint="use --audio, or see docs/avflow_text.md")
    expected = {**espeak.RECIPE, "kind": "phones"}
    differing = [k for k in expected if recipe.get(k) != expected[k]]
    if differing:
        raise UserError("the text front-end has changed since training",
                        where=f"tokens recipe: {', '.join(differing)}",
                        expected=recipe_hash(recipe), found=recipe_hash(expected),
                        hint="train again")
    spoken = voice.speak(text, identity)
    phones_MC = espeak.phone_features(spoken.phonemes, int(np.ceil(spoken.duration * espeak.RATE)))
    return resample.to_features(phones_MC, espeak.RATE, len(spoken.audio) // mel.RECIPE["hop"])


def tokens_from_audio(audio: np.ndarray, recipe: Mapping, codecs: Mapping) -> np.ndarray:
    """(T, C) tokens of speech at 22050 Hz. Raises UserError when the model's tokens cannot be had
    from sound."""
    if recipe["kind"] == "units":
        centroids = codecs["tokens"]["centroids"]
        nearest = kmeans.assign(mel.of_speech(audio, recipe.get("level")), centroids)
        return np.eye(len(centroids), dtype=np.float32)[nearest]
    raise UserError("this model is not driven by audio", where="recipes.json, tokens",
                    expected="kind units", found=recipe["kind"], hint="use --text")
