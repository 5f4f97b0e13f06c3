"""Clips -> Talker's features: audio latents, motion, voice and prompt tokens, all time axes at 25
Hz.

    audio   (T, 32)  latents of the audio codec (avjax.codecs.latents)
    motion  (T, 40)  z-scored; no frames where an example is speech alone. What LIA-X reads of the
                     pictures (driven.py) where its weights are given; else the clips' `motion`,
                     else made of `face` and `pose_z` (avjax.codecs.motion)
    voice   (256,)   where clips know who speaks, of another utterance of the speaker in the same
                     split: at generation a user gives a recording of the voice, not the answer;
                     else of the example's own, as published
    tokens  (n,)     the prompt: everything that stands before the patch slots
Of dialogues, every turn is an example (turns.py).

Everything fitted is fitted on one split and goes into the codecs; what each feature is goes into
the recipes.
"""

import collections
import functools
import json
import zlib
from typing import Annotated

import numpy as np

from avjax.codecs import latents, motion
from avjax.encoders import voices as voice_encoders
from avjax.encoders.plain_text import plain
from avjax.errors import UserError
from avjax.signal import level
from data_pipelines.declared import MaxBad, Option
from data_pipelines.features.common import clips as common
from data_pipelines.features.common import heard
from data_pipelines.features.common.ahead import Ahead
from data_pipelines.features.talker import audio_codec as audio_codecs
from data_pipelines.features.talker import frontend, phonemes
from data_pipelines.features.talker import voices as voice_options
from data_pipelines.features.talker.driven import Driven
from data_pipelines.features.talker.tokenizer import STAND_IN_VOCABULARY, Tokenizer
from data_pipelines.features.talker.turns import Turns
from data_pipelines.store import dataset as store
from data_pipelines.store import quarantine
from data_pipelines.store.schema import FAMILY, SPEAKERS, arrays_hash, recipe_hash

_FACE = ("face", "pose_z")


def extract(
    clips_dir, out_dir, *,
    tokenizer: Annotated[str | None, Option("Qwen3's tokenizer.json; without it a stand-in, "
                                            "--tokens")] = None,
    tokens: phonemes.Tokens = phonemes.STAND_INS[0],
    vocabulary: Annotated[int, Option("most tokens of byte-bpe")] = STAND_IN_VOCABULARY,
    language: phonemes.Language = phonemes.LANGUAGE,
    voice: Annotated[str, Option(voice_options.HELP)] = "auto",
    latent_scale: Annotated[str, Option("of the stand-in's audio latents: unit variance, or the "
                                        "root of each one's deviation, which a model's errors "
                                        "harm less", choices=tuple(latents.SCALES))] = "unit",
    placeholder: Annotated[str, Option("prompt of clips without a transcript, to learn speech to "
                                       "motion from; empty refuses such clips")] = "",
    speech_only: Annotated[float, Option("share of the training clips whose motion is left out, so "
                                         "that they teach text to speech", least=0, below=1)] = 0.0,
    multiple: Annotated[int, Option("extend every clip, by silence and held motion, to a multiple "
                                    "of so many frames; the model's patch, so that no last patch "
                                    "is partial", least=1)] = 1,
    face_codec: Annotated[str | None, Option("LIA-X's published weights: motion is what they read "
                                             "of the pictures")] = None,
    statistics: Annotated[str | None, Option("folder of LIA-X's motion_mean.npy and motion_std.npy,"
                                             " where they are not beside its weights")] = None,
    vocoder: common.Vocoder = None,
    audio_codec: Annotated[str | None, Option("the published WhisperX-VAE, its file or folder, "
                                              "makes the audio latents; without it a stand-in, "
                                              "mel-pca, is fitted")] = None,
    whisper: Annotated[str | None, Option("Whisper large-v3, where the audio codec's file lacks "
                                          "it")] = None,
    carry_landmarks: common.CarryLandmarks = False,
    max_bad: MaxBad = 0.0, fit_split: str = "train", name: str = "features", progress: bool = True,
) -> store.Dataset:
    """Writes the feature dataset of a clip dataset. A killed job resumes when it is started again.

    Args:
      clips_dir: a dataset made by launch.prepare, with audio, text and speaker.
      out_dir: the folder to make.
      fit_split: everything fitted here sees this split only.

    Raises:
      UserError: missing column, tokenizer or statistics; empty text; wrong latent width; motion and
        audio of different length; an unusable clip, named.
    """
    store.refuse_existing(out_dir)
    clips = common.open_clips(clips_dir, out_dir)
    common.require(clips, ("audio", "text", "speaker"),
                   "prepare the clips with sound and transcripts")
    common.full_band(clips)
    if {"events", "side"} <= clips.features.keys():  # of dialogues, each turn is an utterance
        clips = Turns(clips)
    if statistics and not face_codec:
        raise UserError("statistics of which motion?", where="--statistics",
                        expected="--face_codec=FILE beside it", found="none")
    of_face = {}
    if face_codec:
        clips = Driven(clips, face_codec, statistics)
        of_face = {"lia_x": recipe_hash(clips.recipes["motion"]),
                   "scale": arrays_hash(clips.codec("motion"))}
    kind, whose = voice_options.parsed(voice)
    if whose == "auto":
        whose = "another" if "identity" in clips.features else "own"
    voice = whose if kind == voice_encoders.KINDS[0] else f"{kind}:{whose}"
    voice_maker = voice_options.maker(kind)
    given = phonemes.chosen(tokenizer, tokens, language)
    published = audio_codecs.chosen(audio_codec, whisper, vocoder)
    if published and latent_scale != "unit":
        raise UserError("a published codec's latents have their own scale", where="--latent_scale",
                        expected="unit beside --audio_codec", found=latent_scale)
    kept = common.kept_vocoder(vocoder, latents.MEL)
    with common.job(out_dir, clips, "talker", tokenizer=tokenizer, vocabulary=vocabulary,
                    voice=voice, placeholder=placeholder, speech_only=speech_only,
                    multiple=multiple, fit_split=fit_split, **of_face,
                    **{k: v for k, v in (("vocoder", vocoder), ("audio_codec", audio_codec),
                                         ("whisper", whisper)) if v},
                    **({"tokens": tokens, "language": language} if tokens == phonemes.KIND else {}),
                    **({"latent_scale": latent_scale} if latent_scale != "unit" else {}),
                    **({"carry_landmarks": True} if carry_landmarks else {})) as job:
        # the file may hold another tokenizer by now
        kept_in = [x.recipe for x in (given, voice_maker, published) if hasattr(x, "recipe")]
        names = "".join(f"-{recipe_hash(recipe)}" for recipe in kept_in)
        fitted = job.once(f"encoder{names}", lambda: _pack(*_fit(clips, given or Tokenizer.fit(
            (plain(clip["text"]).strip() for clip in clips.source(fit_split, ("text",))),
            vocabulary), voice_maker, published, latent_scale, max_bad, fit_split)))
        return _write(job, clips, *_unpack(fitted), kept, whose, placeholder, speech_only, multiple,
                      max_bad, fit_split, name, carry_landmarks, progress)


def _write(job, clips, encoder: frontend.Encoder, raw_voices, kept, voice, placeholder,
           speech_only, multiple, max_bad, fit_split, name, carry_landmarks,
           progress) -> store.Dataset:
    voices = {k: v for k, (_, _, v) in raw_voices.items()}
    if voice == "another":
        voices = _references(raw_voices)
    carried, of_carried = common.carried(clips, common.CARRIED, carry_landmarks)
    fields = ("id", "audio", *carried, *_motion_columns(clips))

    def items(split):
        count, sounds = clips.splits[split], clips.source(split, ("audio",))
        here = job.part.of(range(count)) if job.part else range(count)
        latent = Ahead(sounds.__getitem__, functools.partial(_sound, clips, encoder, multiple),
                       encoder.audio_codec.many, here.stop, encoder.audio_codec.ahead)

        def example(source, i):
            clip = source[i]
            with _naming(clip, clips):
                out = _features(clip, latent(i), clips, encoder, carried, voices, placeholder,
                                multiple)
            if split == fit_split and zlib.crc32(f"speech only: {clip['id']}".encode(
                )) < speech_only * 2**32:
                out["motion"] = out["motion"][:0]
            return out

        return common.each(clips.source(split, fields), example, max_bad)

    recipes = encoder.recipes
    recipes["voice"]["of"] = voice
    if placeholder.strip():
        recipes["tokens"]["placeholder"] = placeholder.strip()
    codecs = {c: clips.codec(c) for c in clips.codecs} | encoder.codecs | kept[1]
    codecs[heard.CODEC] = job.once("heard", lambda: heard.ranges(clips, fit_split))
    codecs[SPEAKERS] = _speakers(clips, fit_split, encoder, raw_voices)
    return store.write_dataset(
        job, name=name, description=f"Talker features of {clips.name}: "
                                    f"tokens={encoder.tokenizer.kind}, "
        f"audio={recipes['audio']['kind']}, motion={recipes['motion']['kind']}, frames in "
        f"multiples of {multiple}.",
        features={c: clips.features[c] for c in ("id", *carried)} | encoder.schema(),
        recipes=recipes | of_carried | kept[0] | {FAMILY: {"kind": "talker"}}, codecs=codecs,
        splits={s: items(s) for s in clips.splits}, totals=clips.splits, max_bad=max_bad,
        progress=progress)


def _motion_columns(clips) -> tuple[str, ...]:
    """Which columns the clips' motion is made of; none where they have sound alone."""
    if "motion" in clips.features:
        return ("motion",)
    if "face" in clips.features:
        common.require(clips, _FACE, "prepare the clips with head pose")
        return _FACE
    return ()


def _fit(clips, tokens: Tokenizer | phonemes.Phonemes, voice_maker, published, scale: str,
         max_bad: float, fit_split: str) -> tuple[frontend.Encoder, dict[str, tuple]]:
    """The encoder, and {id: (split, speaker, voice)} of every clip, NaN where too little is heard;
    one pass over all clips."""
    columns = _motion_columns(clips)
    _check_given(clips, columns)
    fitted_on = columns if columns == _FACE else ()
    moments, voices, totals = latents.moments(), {}, np.zeros((2, motion.DIM))
    hearing = voice_encoders.Hearing(voice_maker)
    frames = 0
    for split in clips.splits:
        for clip in clips.source(split, ("id", "speaker", "audio", *fitted_on)):
            with _naming(clip, clips, lenient=max_bad > 0):
                rate = clips.features["audio"].rate
                audio = common.to_float(clip["audio"])
                hearing.add(clip["id"], audio, rate)
                voices[clip["id"]] = split, clip["speaker"]
                if split != fit_split:
                    continue
                if not published:
                    moments.add(latents.stacked_mel(level.normalised(
                        frontend.resampled(audio, rate), latents.SAMPLE_RATE)))
                if columns == _FACE:
                    raw_TM = _raw_motion(clip, clips).astype(np.float64)
                    totals += raw_TM.sum(0), (raw_TM**2).sum(0)
                    frames += len(raw_TM)
    codec = None
    if columns == _FACE:
        mean = totals[0] / frames
        std = np.sqrt(np.maximum(totals[1] / frames - mean**2, 0))
        codec = motion.from_recipe(_face_recipe(clips), {"mean": mean, "std": std})
    elif columns:
        recipe = {"kind": "given", "rate": motion.RATE, **clips.recipes.get("motion", {})}
        codec = motion.from_recipe(recipe, clips.codec("motion") if "motion" in clips.codecs
                                   else None,
                                   f"{clips.dir}/codecs/motion.npz")
    raw = hearing.finish()
    raw_US = np.stack([raw[name] for name, (split, _) in voices.items() if split == fit_split])
    voice = voice_maker.fit(raw_US[voice_encoders.known(raw_US)])
    voices = {name: (*who, voice.scale(raw[name])) for name, who in voices.items()}
    audio = published or latents.fit(moments, scale=scale)
    # the published weights have heard sound as loud as it came
    loud = None if published else level.RECIPE
    return frontend.Encoder(tokens, audio, voice, codec, loud), voices


def _pack(encoder: frontend.Encoder, voices: dict[str, tuple]) -> dict[str, np.ndarray]:
    """What `_fit` returns, as arrays."""
    out = {f"{codec}/{n}": x for codec, arrays in encoder.codecs.items() for n, x in arrays.items()}
    splits, speakers, vectors = zip(*voices.values(), strict=True)
    return out | {"recipes": np.array(json.dumps(encoder.recipes)), "ids": np.array(list(voices)),
                  "splits": np.array(splits), "speakers": np.array(speakers),
                  "vectors": np.stack(vectors)}


def _unpack(arrays: dict[str, np.ndarray]) -> tuple[frontend.Encoder, dict[str, tuple]]:
    codecs = collections.defaultdict(dict)
    for key, value in arrays.items():
        codec, _, n = key.partition("/")
        codecs[codec][n] = value
    names = ([str(x) for x in arrays[key]] for key in ("ids", "splits", "speakers"))
    voices = {id: (split, speaker, x) for id, split, speaker,
              x in zip(*names, arrays["vectors"], strict=True)}
    return frontend.Encoder.from_codecs(json.loads(str(arrays["recipes"])), codecs), voices


def _check_given(clips, columns) -> None:
    """UserError unless a column `motion` is 40 wide at 25 Hz and has its statistics; before
    anything is read."""
    if columns != ("motion",):
        return
    feature = clips.features["motion"]
    if feature.shape != (None, motion.DIM):
        raise UserError("wrong latent width", where=f"{clips.dir}, motion",
                        expected=f"(time, {motion.DIM})", found=str(feature.shape),
                        hint="prepare the clips with the 40-d motion of this system")
    if feature.rate != motion.RATE:
        raise UserError("motion at another rate", where=f"{clips.dir}, motion",
                        expected=f"{motion.RATE} Hz", found=f"{feature.rate} Hz",
                        hint="prepare the clips at 25 frames a second")
    motion.from_recipe({}, clips.codec("motion") if "motion" in clips.codecs else None,
                       f"{clips.dir}/codecs/motion.npz")


def _raw_motion(clip, clips, part: slice = slice(None)) -> np.ndarray:
    """(T, 40) at 25 Hz, not z-scored; a part of it where it is the clip's own."""
    if "motion" in clip:
        return clip["motion"][part].astype(np.float32)
    return frontend.face_motion(clip["face"], clip["pose_z"], clips.features["face"].rate)


def _face_recipe(clips) -> dict:
    """What the channels are made of; the face codec's own arrays travel with the dataset, so their
    hash is in it."""
    face = dict(clips.recipes.get("face", {}))
    if "face" in clips.codecs:
        face["arrays"] = arrays_hash(clips.codec("face"))
    return {"kind": motion.KIND, "dim": motion.DIM, "rate": motion.RATE,
            "face_dim": clips.features["face"].shape[1],
            "pose_dim": clips.features["pose_z"].shape[1], "face": face,
            "pose": clips.recipes.get("pose_z", {}), "resample": "linear on timestamps",
            "scale": "z-scored on the training split"}


def _references(voices: dict[str, tuple]) -> dict[str, np.ndarray]:
    """{id: voice of the speaker's next utterance in the same split that has one, after the last
    the first}."""
    groups = collections.defaultdict(list)
    for name, (split, speaker, _) in voices.items():
        groups[split, speaker].append(name)
    out = {}
    for names in groups.values():
        after = names[0]
        for name in reversed(names * 2):
            out[name] = voices[after][2]
            after = name if np.isfinite(voices[name][2]).all() else after
    return out


def _sound(clips, encoder: frontend.Encoder, multiple: int, clip) -> np.ndarray:
    """What the audio codec takes of a clip, and of the silence that the last `multiple` frames may
    need."""
    rate = clips.features["audio"].rate
    return encoder.sound(common.to_float(clip["audio"]), rate,
                         int(np.ceil((multiple - 1) / latents.RATE * rate)))


def _features(clip, extended_TA, clips, encoder: frontend.Encoder, carried, voices,
              placeholder: str, multiple: int) -> dict:
    """extended_TA: latents of `_sound`."""
    seconds = len(clip["audio"]) / clips.features["audio"].rate
    audio_TA = extended_TA[:int(np.ceil(seconds * latents.RATE - 1e-6))]
    motion_TM = np.zeros((0, motion.DIM), np.float32)
    if encoder.motion_codec:
        raw_TM = _raw_motion(clip, clips)
        if len(raw_TM):
            audio_TA, motion_TM = align(audio_TA, encoder.motion_codec.encode(raw_TM))
    missing = -len(audio_TA) % multiple
    audio_TA = extended_TA[:len(audio_TA) + missing]
    if len(motion_TM):
        motion_TM = np.pad(motion_TM, ((0, missing), (0, 0)), mode="edge")
    if not np.isfinite(motion_TM).all():
        raise UserError("motion is not finite", expected="finite numbers", found="NaN or infinity",
                        hint="leave this clip out of the data")
    if not np.isfinite(voices[clip["id"]]).all():
        raise UserError("too little speech to tell a voice by",
                        expected=f"{voice_encoders.SHORTEST:g} s of speech, in this clip or, with "
                        "--voice=another, in another of the speaker", found="less",
                        hint="leave this clip out of the data")
    return {"id": clip["id"], **{c: clip[c] for c in carried},
            "tokens": encoder.prompt(clip["text"].strip() or placeholder),
            "audio": audio_TA, "motion": motion_TM, "voice": voices[clip["id"]]}


def align(audio_TA: np.ndarray, motion_TM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both cut to the shorter one. Raises UserError when they are more than two frames apart."""
    motion.check_apart(len(audio_TA), len(motion_TM))
    frames = min(len(audio_TA), len(motion_TM))
    return audio_TA[:frames], motion_TM[:frames]


def _speakers(clips, split: str, encoder: frontend.Encoder, voices) -> dict[str, np.ndarray]:
    """Names, identities, mean voices (S, 256) and mean first motion frames (S, 40) of the training
    speakers."""
    out = common.speakers(clips, split)
    firsts = collections.defaultdict(list)
    for clip in clips.source(split,
                             ("speaker", *_motion_columns(clips))) if encoder.motion_codec else ():
        if len(raw_TM := _raw_motion(clip, clips, slice(1))):
            firsts[clip["speaker"]].append(encoder.motion_codec.encode(raw_TM[:1])[0])
    own = collections.defaultdict(list)
    for where, speaker, vector in voices.values():
        if where == split and np.isfinite(vector).all():
            own[speaker].append(vector)
    nothing = [np.zeros(motion.DIM, np.float32)]
    # all clips of such a one are left out
    unheard = [np.zeros(encoder.voice_encoder.recipe["width"], np.float32)]
    return out | {"voice":
                  np.stack([np.mean(own[str(n)] or unheard, 0)
                           for n in out["names"]]).astype(np.float32),
                  "first_motion": np.stack([np.mean(firsts.get(str(n), nothing), 0)
                                            for n in out["names"]]
                                           ).astype(np.float32)}


class _naming:
    """Says which clip an error is about. `lenient`: passes over what is the clip's own fault, which
    is told of later."""

    def __init__(self, clip, clips, lenient: bool = False):
        self._id, self._where, self._lenient = clip["id"], str(clips.dir), lenient

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if self._lenient and isinstance(error, Exception):
            quarantine.check(error, ())
            return True
        if isinstance(error, UserError):
            raise UserError(f"cannot extract clip {self._id!r}: {error}", where=self._where,
                            hint="mend it, or --max_bad=0.1 to leave such clips out") from error
        return False
