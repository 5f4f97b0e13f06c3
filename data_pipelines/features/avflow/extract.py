"""Clips -> AV-Flow's features: mel, tokens, face and head on one clock of 22050 / 256 frames a
second.

Every frozen or fitted thing runs here, once, and never inside a training step. What each feature
is, with the hash of any fitted arrays, goes into the dataset's recipes; the arrays themselves into
its codecs.

    mel     normalised log-mel (avjax.signal.mel) of speech at one level (avjax.signal.level), or as
            loud as it was recorded
    tokens  what is heard, see tokens.py
    face    the clips' face codes
    head    "vae": mean of the head-pose VAE's latent; "linear": the z-scored pose itself
and, for dialogues, of what the clips have of the partner: partner_tokens, partner_expression and
partner_head (see partner.py).
"""

from typing import Annotated

import numpy as np

from avjax.encoders import voice_activity
from avjax.errors import UserError
from avjax.signal import level, mel, resample
from data_pipelines.declared import MaxBad, Option
from data_pipelines.features.avflow import head_pose
from data_pipelines.features.avflow import tokens as tokens_of
from data_pipelines.features.avflow.partner import CODEC, Partner
from data_pipelines.features.common import clips as common
from data_pipelines.features.common import heard
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import FAMILY, SPEAKERS, Feature, arrays_hash

HEADS = ("vae", "linear")
LOUDNESS = {"speech": level.RECIPE, "recorded": None}  # recipe of the level
_CARRIED = (*common.CARRIED, *(f"partner_{name}" for name in common.CARRIED))


def extract(
    clips_dir, out_dir, *,
    tokens: Annotated[str, Option("what is heard, as features", tokens_of.KINDS)] = "phones",
    head: Annotated[str, Option("the head pose", HEADS)] = "linear",
    head_vae: Annotated[str | None, Option("workdir or checkpoint of a trained head VAE, for "
                                           "--head=vae; not needed where the clips' corpus "
                                           "brings one")] = None,
    weights: Annotated[str | None, Option("wav2vec 2.0 base 960h with its CTC head (torchaudio's, "
                                          "fairseq's or transformers' file), for "
                                          "--tokens=wav2vec2", flag="ctc")] = None,
    activity: Annotated[str | None, Option("keeps to each channel's own speech, for "
                                           "--tokens=wav2vec2: "
                                           + voice_activity.HELP)] = None,
    units: Annotated[int, Option("number of k-means units, for --tokens=units",
                                 least=2)] = tokens_of.UNITS,
    seed: Annotated[int, Option("of that fit")] = 0,
    mode: Annotated[str, Option("how features get to one clock: by their timestamps, or "
                                "interpolated as the published code does", resample.MODES,
                                flag="resample")] = "timestamps",
    loudness: Annotated[str, Option("of the sound: brought to one level of speech, or as recorded, "
                                    "which is what the published code reads",
                                    tuple(LOUDNESS))] = "speech",
    vocoder: common.Vocoder = None,
    carry_landmarks: common.CarryLandmarks = False,
    max_bad: MaxBad = 0.0, fit_split: str = "train", name: str = "features", progress: bool = True,
) -> store.Dataset:
    """Writes the feature dataset of a clip dataset. A killed job resumes when it is started again.

    Args:
      clips_dir: a dataset made by launch.prepare.
      out_dir: the folder to make.
      fit_split: everything fitted here sees this split only.

    Raises:
      UserError: unknown choice, clips without a needed column, missing weights, unusable clip.
    """
    store.refuse_existing(out_dir)
    clips = common.open_clips(clips_dir, out_dir)
    common.full_band(clips)
    kept = common.kept_vocoder(vocoder, mel.RECIPE)
    header = head_pose.make(head, clips, head_vae)
    detector = tokens_of.detector(tokens, activity)
    with common.job(out_dir, clips, "avflow", tokens=tokens, head=head, head_vae=head_vae,
                    weights=weights, units=units, loudness=loudness,
                    seed=seed, mode=mode, fit_split=fit_split,
                    **({"activity": activity} if activity else {}),
                    **({"vocoder": vocoder} if vocoder else {}),
                    **({"carry_landmarks": True} if carry_landmarks else {})) as job:
        speech_level = LOUDNESS[loudness]
        tokenizer = tokens_of.make(job, tokens, clips, weights, units, seed, mode, max_bad,
                                   fit_split, speech_level, detector)
        return _write(job, clips, tokenizer, header, kept, mode, speech_level, max_bad, fit_split,
                      name, carry_landmarks, progress)


def _write(job, clips, tokenizer, header, kept, mode, speech_level, max_bad, fit_split, name,
           carry_landmarks, progress) -> store.Dataset:
    dialogue = "partner_audio" in clips.features
    partner = Partner(clips, fit_split, job.once) if dialogue else None
    needed = ["audio", "face", *tokenizer.columns, *header.columns]
    if dialogue:
        needed += [f"partner_{c}" for c in ("audio", *tokenizer.columns)]
        needed += partner.columns.values()
    common.require(clips, needed, "pick other --tokens or --head, or prepare the clips with it")
    common.at_mel_rate(clips)
    carried, of_carried = common.carried(clips, _CARRIED, carry_landmarks)
    fields = ["id", *carried, *dict.fromkeys(needed)]

    def example(source, i):
        clip = source[i]
        try:
            return _features(clip, carried, tokenizer, header, partner, clips, mode,
                             speech_level)
        except UserError as error:
            raise UserError(f"cannot extract clip {clip['id']!r}: {error}", where=str(clips.dir),
                            hint="mend it, or --max_bad=0.1 to leave such clips out") from error

    recipes, codecs = recipes_of(clips, tokenizer, header, partner, mode, speech_level)
    recipes |= of_carried | kept[0]
    codecs |= kept[1]
    if {"speaker", "identity"} <= clips.features.keys():
        codecs[SPEAKERS] = common.speakers(clips, fit_split)
    if tokenizer.recipe["kind"] == "units":  # sound may drive it
        codecs[heard.CODEC] = job.once("heard", lambda: heard.ranges(clips, fit_split))
    return store.write_dataset(
        job, name=name, description=f"AV-Flow features of {clips.name}: "
                                    f"tokens={tokenizer.recipe['kind']}, "
        f"head={header.recipe['kind']}.",
        features=_schema(clips, carried, tokenizer, header, partner),
        recipes=recipes | {FAMILY: {"kind": "avflow"}},
        codecs=codecs, splits={s: common.each(clips.source(s, fields), example, max_bad)
                               for s in clips.splits}, totals=clips.splits,
        max_bad=max_bad, progress=progress)


def _features(clip, carried, tokenizer, header, partner, clips, mode, speech_level) -> dict:
    prefixes = ("", "partner_") if partner else ("",)
    recorded = [clip[f"{prefix}audio"] for prefix in prefixes]
    audio = [speech(x, speech_level) for x in recorded]
    mels = [mel.of_speech(x, None) for x in audio]
    frames = len(mels[0])
    if tokenizer.detector:
        own = tokenizer.detector.separated(recorded, mel.RECIPE["sample_rate"])
        audio = [speech(x, speech_level) for x in own]
    tokens = [tokenizer(clip, *heard, frames) for heard in zip(prefixes, audio, mels, strict=True)]

    def on_clock(x_TC, column):
        return resample.to_features(x_TC, clips.features[column].rate, frames, mode=mode)

    out = {"id": clip["id"], **{c: clip[c] for c in carried}, "mel": mels[0], "tokens": tokens[0],
           "face": on_clock(clip["face"], "face"),
           "head": _head(clip, header, on_clock, mode)}
    if partner:
        out["partner_tokens"] = tokens[1]
        out |= {stream: on_clock(x_TC, partner.columns[stream])
                for stream, x_TC in partner(clip).items()}
    return out


def _head(clip, header, on_clock, mode) -> np.ndarray:
    """Latents of the pose at its own rate, on the clock; the published code puts the pose on the
    clock first."""
    column, = header.columns
    if mode == "released":
        return header.call(on_clock(clip[column], column))
    return on_clock(header.call(clip[column]), column)


def speech(audio: np.ndarray, speech_level: dict | None) -> np.ndarray:
    """Samples of a clip -> float32, at the level of speech that the recipe asks for."""
    return level.normalised(common.to_float(audio), mel.RECIPE["sample_rate"], speech_level)


def _schema(clips, carried, tokenizer, header, partner) -> dict[str, Feature]:
    def sequence(width, meaning, unit=""):
        return Feature((None, width), "float32", meaning, unit, mel.FRAME_RATE)

    features = {"id": clips.features["id"], **{c: clips.features[c] for c in carried},
                "mel": sequence(mel.RECIPE["bands"], "normalised log-mel of the speech",
                                "standard deviations"),
                "tokens": sequence(tokenizer.width, tokenizer.meaning),
                "face": sequence(clips.features["face"].shape[1], clips.features["face"].meaning),
                "head": sequence(header.width, header.meaning)}
    if partner:
        meanings = {"partner_expression": "the partner's face code, scaled to [-1, 1]",
                    "partner_head": "the partner's head rotation vector, scaled to [-1, 1]"}
        features["partner_tokens"] = sequence(tokenizer.width,
                                              f"the partner's: {tokenizer.meaning}")
        features |= {stream: sequence(partner.width(stream, clips), meanings[stream])
                     for stream in partner.columns}
    return features


def clock(mode: str) -> dict:
    """What recipes say of how features got to the mel's clock."""
    # earlier versions: by lengths
    return {"rate": mel.FRAME_RATE, "resample": mode} | ({"by": "rates"} if mode == "released"
                                                         else {})


def recipes_of(clips, tokenizer, header, partner, mode, speech_level) -> tuple[dict, dict]:
    """Recipes and codecs of features. Recipes hold content (names, sizes, hashes), never paths, so
    equal data hash equally."""
    on_clock = clock(mode)
    codecs = {c: clips.codec(c) for c in clips.codecs if c != head_pose.CODEC}
    face = {**clips.recipes.get("face", {}), **on_clock}
    if "face" in codecs:
        face["arrays"] = arrays_hash(codecs["face"])
    recipes = {"mel": mel.RECIPE | ({"level": speech_level} if speech_level else {}),
               "tokens": {**tokenizer.recipe, **on_clock}, "face": face,
               "head": {**header.recipe, **on_clock}}
    if tokenizer.arrays:
        codecs["tokens"] = tokenizer.arrays
    if header.arrays:
        codecs["head"] = header.arrays
    if partner:
        recipes["partner_tokens"] = recipes["tokens"]
    if partner and partner.columns:
        codecs[CODEC] = partner.arrays
        scaled = {"scaled": "min-max to [-1, 1]", "arrays": arrays_hash(partner.arrays), **on_clock}
        partner_face = clips.recipes.get("partner_face", clips.recipes.get("face", {}))
        made = {"partner_expression": {**partner_face, **scaled},
                "partner_head": {"kind": "rotation-vector", **scaled}}
        recipes |= {stream: made[stream] for stream in partner.columns}
    return recipes, codecs
