"""Clips -> a vocoder's features: sound, frame by frame of the mel's clock, and the mel that it is
to be made from.

    audio  (T, hop) the samples of each frame, as the vocoder is to make them
    mel    (T, bands) log-mel of that sound, not scaled; or, for fine-tuning, the mel that a trained
           model makes of the same clip
The sound is at one peak, as published; or as it is in the features of the other systems, whose mel
is of sound at one level of speech, divided by the recipe's gain. Their models' mel is of that.
"""

from typing import Annotated

import numpy as np

from avjax.errors import UserError
from avjax.signal import level, mel
from avjax.signal.resample import resampled
from data_pipelines.declared import MaxBad, Option
from data_pipelines.features.common import clips as common
from data_pipelines.features.vocoder.generated import Model
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import FAMILY, Feature

PEAK = 0.95
KINDS = {"22k": mel.RECIPE, "24k": mel.RECIPE_24K}
LOUDNESS = ("peak", "speech", "recorded")


def extract(
    clips_dir, out_dir, *,
    mel_kind: Annotated[str, Option("the mel that is inverted: of AV-Flow and TAVID (22k) or of "
                                    "Talker-T2AV (24k)", tuple(KINDS), flag="mel")] = "22k",
    loudness: Annotated[str, Option("of the sound: at one peak, at one level of speech as the "
                                    "systems read it, or as recorded", LOUDNESS)] = "peak",
    generated: Annotated[str | None, Option("workdir of a trained system: its mel of each clip, in "
                                            "the clip's own timing, in place of the sound's "
                                            "(sets --loudness)")] = None,
    generated_data: Annotated[str | None, Option("feature dataset of these clips that it generates "
                                                 "from; default the one that it was trained "
                                                 "on")] = None,
    seed: Annotated[int, Option("of its noise")] = 0,
    max_bad: MaxBad = 0.0, name: str = "features", progress: bool = True,
) -> store.Dataset:
    """Writes the feature dataset of a clip dataset. A killed job resumes when it is started again.

    Args:
      clips_dir: a dataset made by launch.prepare.
      out_dir: the folder to make.

    Raises:
      UserError: clips without sound or of telephone sound; a workdir that makes no mel of this
        kind, or another timing.
    """
    store.refuse_existing(out_dir)
    clips = common.open_clips(clips_dir, out_dir)
    common.full_band(clips)
    common.require(clips, ["audio"], "prepare the clips with sound")
    recipe = KINDS[mel_kind]
    model = Model(generated, generated_data, recipe, seed) if generated else None
    carried, _ = common.carried(clips, common.CARRIED)
    rate = clips.features["audio"].rate or recipe["sample_rate"]

    def example(source, i):
        clip = source[i]
        audio_N = common.to_float(clip["audio"])
        if rate != recipe["sample_rate"]:
            audio_N = resampled(audio_N, rate, recipe["sample_rate"])
        audio_N = model.sound(audio_N) if model else loud(audio_N, loudness, recipe)
        if len(audio_N) < recipe["n_fft"] // 2:
            raise store.Unusable("too short for a mel frame", id=clip["id"],
                                 found=f"{len(audio_N)} samples")
        audio_TH = audio_N[:len(audio_N) // recipe["hop"] * recipe["hop"]].reshape(
            -1, recipe["hop"])
        log_mel = model.mel(clip["id"], len(audio_TH)) if model else mel.log_mel(
            audio_TH.ravel(), mel.unscaled(recipe))
        return {"id": clip["id"], **{c: clip[c] for c in carried}, "audio": audio_TH,
                "mel": log_mel}

    clock = recipe["sample_rate"] / recipe["hop"]
    features = {"id": clips.features["id"], **{c: clips.features[c] for c in carried},
                "audio": Feature((None, recipe["hop"]), "float32", "sound, a mel frame's samples "
                                 "side by side", "", clock),
                "mel": Feature((None, recipe["bands"]), "float32",
                               "log-mel that a model made of the clip" if model
                               else "log-mel of that sound", "ln", clock)}
    made_by = model.recipe if model else {"kind": "sound", "loudness": loudness}
    recipes = {FAMILY: {"kind": "vocoder"}, "mel": mel.unscaled(recipe), "made_by": made_by}
    with common.job(out_dir, clips, "vocoder", mel_kind=mel_kind, seed=seed, **made_by) as job:
        return store.write_dataset(
            job, name=name, description=f"Mel and sound of {clips.name}.", features=features,
            recipes=recipes, codecs={},
            splits={s: common.each(clips.source(s, ("id", *carried, "audio")), example, max_bad)
                    for s in clips.splits},
            totals=clips.splits, max_bad=max_bad, progress=progress)


def loud(audio_N: np.ndarray, loudness: str, recipe: dict) -> np.ndarray:
    """Samples as the vocoder is to make them. UserError: samples that are not finite."""
    if not np.isfinite(audio_N).all():
        raise UserError("sound that is not finite", where="audio", expected="finite samples",
                        found=f"{np.count_nonzero(~np.isfinite(audio_N))} others")
    if loudness == "peak":
        peak = np.abs(audio_N).max(initial=0.0)
        return audio_N * np.float32(PEAK / peak) if peak > 0 else audio_N
    audio_N = level.normalised(audio_N, recipe["sample_rate"]) if loudness == "speech" else audio_N
    return audio_N / np.float32(recipe["gain"])
