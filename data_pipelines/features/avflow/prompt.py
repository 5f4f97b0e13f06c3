"""What drives AV-Flow: text or speech -> the tokens it was trained on, and who it is to be.

The tokens' recipe says which front-end made them; nothing else is accepted, so a model of phonemes
is never fed units.
"""

import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from avjax.encoders import espeak
from avjax.errors import UserError
from avjax.signal import kmeans, mel, resample
from avjax.systems.avflow.streaming import StreamingSampler, can_stream
from data_pipelines import media, prompting
from data_pipelines.features.common import heard
from data_pipelines.store.schema import recipe_hash

MAX_CHARACTERS = 2000  # about two minutes of speech
CHUNK = 8192  # frames (95 s); what is longer is made chunk by chunk
BUCKET = 128  # frames; lengths are padded to multiples of it
TAKES = ("task", "text", "audio", "speaker")
SETTINGS = {"steps": "euler_steps", "guidance": "guidance", "temperature": "temperature"}


def plan(wish: prompting.Wish, system, decoder) -> prompting.Plan:
    """Text or speech becomes tokens. UserError for unusable text or audio and unknown speakers."""
    text, audio = wish.text, wish.audio
    if bool(text) == bool(audio):
        raise UserError("nothing to say" if not text else "two things to say",
                        where="--text, --audio", expected="exactly one of them",
                        found="neither" if not text else "both")
    if len(text) > MAX_CHARACTERS:
        raise UserError("text too long", where="--text",
                        expected=f"at most {MAX_CHARACTERS} characters", found=f"{len(text)}",
                        hint="split it into sentences and generate each")
    task = wish.task or system.tasks[0]
    prompting.check_task(task, system)
    who = prompting.speakers(decoder.codecs)
    speaker = prompting.choose_speaker(wish.speaker, who)
    recipe, notes = decoder.recipes["tokens"], []
    if text:
        tokens_TC = tokens_from_text(text, recipe, identity=who[speaker])
    else:
        audio_N = media.read_audio(audio, mel.RECIPE["sample_rate"])
        tokens_TC = tokens_from_audio(audio_N, recipe, decoder.codecs)
        notes = heard.remarks(audio_N, mel.RECIPE["sample_rate"], decoder.codecs, recipe)
    spec, noise = system.conditions_spec, text or pathlib.Path(audio).name
    if len(tokens_TC) <= CHUNK or not can_stream(system.config):
        made_from = conditions(spec, tokens_TC, who[speaker], bucket=BUCKET)
        return prompting.Plan(task, made_from, len(tokens_TC), speaker, who[speaker], noise,
                              tuple(notes))
    return prompting.Plan(task, {}, len(tokens_TC), speaker, who[speaker], noise, tuple(notes),
                          pieces=in_chunks(spec, tokens_TC, who[speaker]),
                          seconds=len(tokens_TC) / system.config.frame_rate)


def in_chunks(spec: Mapping, tokens_TC: np.ndarray,
              identity: np.ndarray) -> tuple[dict[str, np.ndarray], ...]:
    """`conditions` of consecutive chunks, none of them padded."""
    return tuple(conditions(spec, tokens_TC[first:first + CHUNK], identity, bucket=1)
                 for first in range(0, len(tokens_TC), CHUNK))


def pieces(system, params, plan: prompting.Plan, keys) -> Iterator[tuple[dict | None, float]]:
    """Yields (None, seconds made so far) after each chunk and last (what `generate` would return,
    all seconds)."""
    sampler = StreamingSampler(system, params, keys, chunk=CHUNK)
    made, frames = [], 0
    for chunk in plan.pieces:
        given = {name: value for name, value in chunk.items() if name != "mask"}
        made.append(sampler.feed(given) if chunk["tokens"].shape[1] == CHUNK
                    else sampler.finish(given))
        frames += made[-1]["mel"].shape[1]
        yield None, frames / system.config.frame_rate
    made.append(sampler.finish())
    yield {name: np.concatenate([part[name] for part in made], axis=1)
           for name in made[0]}, plan.seconds


def remarks(plan: prompting.Plan, out, system) -> list[str]:
    """None."""
    return []


def tokens_from_text(text: str, recipe: Mapping, *, identity: np.ndarray) -> np.ndarray:
    """(T, C) phoneme features on the features' clock; timing is espeak-ng's at this identity's
    speaking rate.

    Raises UserError when the model's tokens do not come from text, or the text has nothing to
    speak.
    """
    from data_pipelines.puppets import voice

    if recipe["kind"] != "phones":
        raise UserError("this model is not driven by text", where="recipes.json, tokens",
                        expected="kind phones",
                        found=recipe["kind"], hint="use --audio")
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
                    expected="kind units", found=recipe["kind"], hint="use --text"
                    if recipe["kind"] == "phones" else
                    "extract its tokens with launch.extract --tokens=wav2vec2 and evaluate")


def conditions(spec: Mapping, tokens_TC: np.ndarray, identity: np.ndarray, *,
               bucket: int) -> dict[str, np.ndarray]:
    """A batch of one for `System.generate`, padded to a multiple of `bucket` frames; absent
    partners are zeros."""
    length = len(tokens_TC)
    padded = -(-length // bucket) * bucket
    out = {}
    for name, wanted in spec.items():
        shape = wanted.resolve(batch=1, time=padded).shape
        out[name] = np.zeros(shape, np.float32)
    prompting.check_fits(spec["tokens"], "tokens", tokens_TC)
    out["tokens"][0, :length] = tokens_TC
    out["mask"][0, :length] = 1.0
    if "identity" in out:
        out["identity"][0] = identity
    return out
