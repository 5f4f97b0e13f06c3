"""Clips -> AV-Flow's features: mel, tokens, face and head on one clock of 22050 / 256 frames a
second.

Every frozen or fitted thing runs here, once, and never inside a training step. What each feature
is, with the hash of any fitted arrays, goes into the dataset's recipes; the arrays themselves into
its codecs.

    mel     normalised log-mel (avjax.signal.mel) of speech at one level (avjax.signal.level)
    tokens  "phones": the clips' phoneme features; "units": k-means of the mel frames, one-hot;
            "wav2vec2": CTC logits; with --activity, of sound in which each channel is silent where
            its own speaker is, so that nobody's tokens hold the other's words
    face    the clips' face codes
    head    "vae": mean of the head-pose VAE's latent; "linear": the z-scored pose itself
and, for dialogues, partner_tokens, partner_expression and partner_head (min-max scaled to [-1, 1]
on the train split).
"""

import dataclasses
import hashlib
import pathlib
from typing import Annotated

import numpy as np
import soxr

from avjax.encoders import voice_activity
from avjax.errors import UserError
from avjax.signal import kmeans, level, mel, resample
from data_pipelines.declared import MaxBad, Option
from data_pipelines.features.avflow import head_pose
from data_pipelines.features.common import clips as common
from data_pipelines.features.common import heard
from data_pipelines.store import dataset as store
from data_pipelines.store import quarantine
from data_pipelines.store.schema import FAMILY, SPEAKERS, Feature, arrays_hash, recipe_hash

TOKENS = ("phones", "units", "wav2vec2")
HEADS = ("vae", "linear")
UNITS = 100
WAV2VEC2_RATE = 16000
_CARRIED = (*common.CARRIED, *(f"partner_{name}" for name in common.CARRIED))
_FIT_FRAMES = 100_000  # mel frames that units are fitted on, from clips drawn at random


def extract(
    clips_dir, out_dir, *,
    tokens: Annotated[str, Option("what is heard, as features", TOKENS)] = "phones",
    head: Annotated[str, Option("the head pose", HEADS)] = "linear",
    head_vae: Annotated[str | None, Option("workdir or checkpoint of a trained head VAE, for "
                                           "--head=vae")] = None,
    weights: Annotated[str | None, Option("a wav2vec2 CTC checkpoint, for "
                                          "--tokens=wav2vec2")] = None,
    activity: Annotated[str | None, Option("keeps to each channel's own speech, for "
                                           "--tokens=wav2vec2: "
                                           + voice_activity.HELP)] = None,
    units: Annotated[int, Option("number of k-means units, for --tokens=units", least=2)] = UNITS,
    seed: Annotated[int, Option("of that fit")] = 0,
    mode: Annotated[str, Option("how features get to one clock: by their timestamps, or stretched "
                                "by length as the published code does", resample.MODES,
                                flag="resample")] = "timestamps",
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
    header = head_pose.make(head, clips, head_vae)
    detector = _detector(tokens, activity)
    with common.job(out_dir, clips, "avflow", tokens=tokens, head=head, head_vae=head_vae,
                    weights=weights, units=units,
                    seed=seed, mode=mode, fit_split=fit_split,
                    **({"activity": activity} if activity else {})) as job:
        tokenizer = _tokenizer(job, tokens, clips, weights, detector, units, seed, mode, max_bad,
                               fit_split)
        return _write(job, clips, tokenizer, header, mode, max_bad, fit_split, name, progress)


def _write(job, clips, tokenizer, header, mode, max_bad, fit_split, name,
           progress) -> store.Dataset:
    dialogue = "partner_audio" in clips.features
    who = ("", "partner_") if dialogue else ("",)
    needed = [f"{w}{c}" for w in who
              for c in ("audio", "face", *tokenizer.columns)] + list(header.columns)
    needed += ["partner_pose"] if dialogue else []
    common.require(clips, needed, "pick other --tokens or --head, or prepare the clips with it")
    if clips.recipes.get("audio", {}).get("sample_rate",
                                          mel.RECIPE["sample_rate"]) != mel.RECIPE["sample_rate"]:
        raise UserError("clips have another sample rate", where=str(clips.dir), expected="22050 Hz",
                        found=str(clips.recipes["audio"]), hint="prepare them again")
    partner = None
    if dialogue:
        ranges = job.once("partner", lambda: _PartnerScaling.fit(clips, fit_split))
        partner = _PartnerScaling(ranges)
    carried = [c for c in _CARRIED if c in clips.features]
    fields = ["id", *carried, *dict.fromkeys(needed)]

    def example(source, i):
        clip = source[i]
        try:
            return _features(clip, carried, tokenizer, header, partner, clips, mode)
        except UserError as error:
            raise UserError(f"cannot extract clip {clip['id']!r}: {error}", where=str(clips.dir),
                            hint="mend it, or --max_bad=0.1 to leave such clips out") from error

    recipes, codecs = _recipes(clips, tokenizer, header, partner, mode)
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


def _features(clip, carried, tokenizer, header, partner, clips, mode) -> dict:
    heard = tokenizer.hears(clip)
    audio = _speech(clip["audio"])
    mel_TM = mel.of_speech(audio, None)
    frames = len(mel_TM)

    def on_clock(x_TC, column):
        return resample.to_features(x_TC, clips.features[column].rate, frames, mode=mode)

    out = {"id": clip["id"], **{c: clip[c] for c in carried}, "mel": mel_TM,
           "tokens": tokenizer(clip, "", heard.get("", audio), mel_TM, frames),
           "face": on_clock(clip["face"], "face"),
           "head": on_clock(header(clip), header.columns[0])}
    if partner:
        audio = _speech(clip["partner_audio"])
        mel_TM = mel.of_speech(audio, None)
        expression, rotation = partner(clip)
        heard_partner = heard.get("partner_", audio)
        out |= {"partner_tokens": tokenizer(clip, "partner_", heard_partner, mel_TM, frames),
                "partner_expression": on_clock(expression, "partner_face"),
                "partner_head": on_clock(rotation, "partner_pose")}
    return out


def _speech(audio: np.ndarray) -> np.ndarray:
    """Samples of a clip -> float32 at the level of speech."""
    return level.normalised(common.to_float(audio), mel.RECIPE["sample_rate"])


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
        features |= {"partner_tokens": sequence(tokenizer.width,
                                                f"the partner's: {tokenizer.meaning}"),
                     "partner_expression": sequence(clips.features["partner_face"].shape[1],
                                                    "the partner's face code, scaled to [-1, 1]"),
                     "partner_head": sequence(3, "the partner's head rotation vector, scaled to "
                                              "[-1, 1]")}
    return features


def _recipes(clips, tokenizer, header, partner, mode) -> tuple[dict, dict]:
    """Recipes and codecs. Recipes hold content (names, sizes, hashes), never paths, so equal data
    hash equally."""
    clock = {"rate": mel.FRAME_RATE, "resample": mode}
    codecs = {c: clips.codec(c) for c in clips.codecs}
    face = {**clips.recipes.get("face", {}), **clock}
    if "face" in codecs:
        face["arrays"] = arrays_hash(codecs["face"])
    recipes = {"mel": dict(mel.SPEECH), "tokens": {**tokenizer.recipe, **clock}, "face": face,
               "head": {**header.recipe, **clock}}
    if tokenizer.arrays:
        codecs["tokens"] = tokenizer.arrays
    if header.arrays:
        codecs["head"] = header.arrays
    if partner:
        codecs["partner"] = partner.arrays
        scaled = {"scaled": "min-max to [-1, 1]", "arrays": arrays_hash(partner.arrays), **clock}
        partner_face = clips.recipes.get("partner_face", clips.recipes.get("face", {}))
        recipes |= {"partner_tokens": recipes["tokens"],
                    "partner_expression": {**partner_face, **scaled},
                    "partner_head": {"kind": "rotation-vector", **scaled}}
    return recipes, codecs


@dataclasses.dataclass
class _Tokenizer:
    """`__call__(clip, prefix, audio, mel_TM, frames)` -> (frames, width) float32."""

    recipe: dict
    width: int
    meaning: str
    call: object
    columns: tuple[str, ...] = ()
    arrays: dict | None = None
    detector: voice_activity.Detector | None = None

    def __call__(self, *args) -> np.ndarray:
        return self.call(*args)

    def hears(self, clip) -> dict[str, np.ndarray]:
        """{prefix: speech} of the channels without what is not their own speaker's; {} where they
        are taken as they are."""
        if self.detector is None:
            return {}
        prefixes = [p for p in ("", "partner_") if f"{p}audio" in clip]
        own = self.detector.separated([clip[f"{p}audio"] for p in prefixes],
                                      mel.RECIPE["sample_rate"])
        return {p: level.normalised(x, mel.RECIPE["sample_rate"])
                for p, x in zip(prefixes, own, strict=True)}


def _detector(tokens: str, activity: str | None) -> voice_activity.Detector | None:
    if activity and tokens != "wav2vec2":
        raise UserError("tokens that do not look at the voice activity", where="--activity",
                        expected="--tokens=wav2vec2", found=f"--tokens={tokens}",
                        hint="leave --activity out")
    return voice_activity.Detector.parse(activity) if activity else None


def _tokenizer(job, kind, clips, weights, detector, units, seed, mode, max_bad,
               fit_split) -> _Tokenizer:
    if kind == "phones":
        feature = clips.features.get("phones")
        if feature is None:
            raise UserError("clips have no phoneme features", where=str(clips.dir),
                            expected="a column 'phones'", found=", ".join(clips.features),
                            hint="use --tokens=units or --tokens=wav2vec2")

        def phones(clip, prefix, audio, mel_TM, frames):
            return resample.to_features(clip[prefix + "phones"], feature.rate, frames, mode=mode)

        return _Tokenizer({**clips.recipes.get("phones", {}), "kind": "phones"}, feature.shape[1],
                          feature.meaning,
                          phones, ("phones",))
    if kind == "units":
        fitted = job.once("units", lambda: {"centroids": _fit_units(clips, units, seed, max_bad,
                                                                    fit_split)})
        centroids = fitted["centroids"]

        def one_hot(clip, prefix, audio, mel_TM, frames):
            nearest = kmeans.assign(mel_TM,
                                    centroids)[np.minimum(np.arange(frames), len(mel_TM) - 1)]
            return np.eye(units, dtype=np.float32)[nearest]

        recipe = {"kind": "units", "units": units, "of": recipe_hash(mel.RECIPE),
                  "level": level.RECIPE, "values": "one-hot",
                  "arrays": arrays_hash({"centroids": centroids})}
        return _Tokenizer(recipe, units, "nearest k-means unit of the mel frame, one-hot", one_hot,
                          arrays={"centroids": centroids})
    if weights is None or not pathlib.Path(weights).exists():
        raise UserError("wav2vec2 tokens need weights", where="--weights",
                        expected="a wav2vec2 CTC checkpoint", found=str(weights),
                        hint="give its path, or use --tokens=units")
    from avjax.encoders import wav2vec2  # only here: the others need no weights and no such network

    encoder = wav2vec2.Wav2Vec2CTC.from_checkpoint(weights)

    def logits(clip, prefix, audio, mel_TM, frames):
        x_TC = np.asarray(encoder(soxr.resample(audio, mel.RECIPE["sample_rate"], WAV2VEC2_RATE)),
                          np.float32)
        if mode == "released":
            return resample.to_features(x_TC, 0.0, frames, mode=mode)
        # Frame k of a chunk sees its samples 320 k .. 320 k + 399; a chunk of 100 s has 4999
        # frames, not 5000.
        chunk, seconds = np.divmod(resample.feature_times(frames), wav2vec2.CHUNK_SECONDS)
        per_chunk = wav2vec2.CHUNK_SECONDS * 50 - 1
        position = chunk * per_chunk + np.clip(seconds * 50 - 200 / 320, 0, per_chunk - 1)
        return resample.interpolate(x_TC, position)

    digest = file_hash(weights)
    separated = {"activity": detector.recipe} if detector else {}
    return _Tokenizer({"kind": "wav2vec2-ctc", "weights": digest, "level": level.RECIPE,
                       "values": "logits", **separated}, 29,
                      "CTC logits of wav2vec2", logits, detector=detector)


def _fit_units(clips, units, seed, max_bad, split) -> np.ndarray:
    source = clips.source(split, ("audio",))
    frames, count = [], 0
    for i in np.random.default_rng(seed).permutation(len(source)):
        try:
            frames.append(mel.of_speech(common.to_float(source[int(i)]["audio"])))
        except Exception as error:
            if not max_bad:
                raise
            quarantine.check(error, ())
            continue  # reported when it is extracted
        count += len(frames[-1])
        if count >= _FIT_FRAMES:
            break
    return kmeans.fit(np.concatenate(frames), units, seed=seed)


class _PartnerScaling:
    """Min-max scaling of the partner's face code and head rotation, fitted on one split."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays

    @classmethod
    def fit(cls, clips, split) -> dict[str, np.ndarray]:
        low, high = None, None
        for clip in clips.source(split, ("partner_face", "partner_pose")):
            x = cls._raw(clip)
            now_low, now_high = [v.min(0) for v in x], [v.max(0) for v in x]
            low = list(map(np.minimum, low or now_low, now_low))
            high = list(map(np.maximum, high or now_high, now_high))
        return {"expression_min": low[0], "expression_max": high[0], "head_min": low[1],
                "head_max": high[1]}

    def __call__(self, clip):
        def scaled(name, x):
            low, high = self.arrays[f"{name}_min"], self.arrays[f"{name}_max"]
            return np.clip(2 * (x - low) / np.maximum(high - low, 1e-6) - 1, -1, 1)

        return list(map(scaled, ("expression", "head"), self._raw(clip)))

    @staticmethod
    def _raw(clip):
        return clip["partner_face"], rotation_vector(clip["partner_pose"][:, :4])


def rotation_vector(quaternion_T4: np.ndarray) -> np.ndarray:
    """Quaternions wxyz (T, 4) -> axis times angle in radians (T, 3), angle in [0, pi]."""
    q = quaternion_T4 / np.maximum(np.linalg.norm(quaternion_T4, axis=-1, keepdims=True), 1e-12)
    q = np.where(q[:, :1] < 0, -q, q)
    sine = np.linalg.norm(q[:, 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, q[:, :1])
    return (q[:, 1:] * np.where(sine > 1e-8, angle / np.maximum(sine, 1e-8),
                                2.0)).astype(np.float32)


def file_hash(path) -> str:
    """16 hex digits of what a file, or all files of a folder, hold."""
    files = sorted(p for p in pathlib.Path(path).rglob("*")
                   if p.is_file()) if pathlib.Path(path).is_dir() else [
        pathlib.Path(path)]
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
