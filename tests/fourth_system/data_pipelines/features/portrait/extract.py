"""Clips -> Portrait's features: mel, face and head on one clock of 22050 / 256 frames a second."""

from avjax.signal import level, mel, resample
from data_pipelines.declared import MaxBad
from data_pipelines.features.common import clips as common
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import SPEAKERS, Feature

CARRIED = ("speaker", "text", "identity")  # copied from the clips


def extract(clips_dir, out_dir, *, max_bad: MaxBad = 0.0, name: str = "portrait",
            progress: bool = True) -> store.Dataset:
    """Writes the feature dataset of a clip dataset; continued where it was after a kill.

    Args:
      clips_dir: a dataset made by launch.prepare.
      out_dir: the folder to make.
    """
    store.refuse_existing(out_dir)
    clips = common.open_clips(clips_dir, out_dir)
    common.require(clips, ("audio", "face", "pose_z"), "prepare the clips with faces and poses")
    fields = ("id", *CARRIED, "audio", "face", "pose_z")

    def example(source, i):
        clip = source[i]
        audio = level.normalised(common.to_float(clip["audio"]), mel.RECIPE["sample_rate"])
        sound = mel.of_speech(audio, None)
        face, head = (resample.to_features(clip[column], clips.features[column].rate, len(sound))
                      for column in ("face", "pose_z"))
        return {"id": clip["id"], **{c: clip[c] for c in CARRIED}, "mel": sound, "face": face,
                "head": head}

    def sequence(width, meaning):
        return Feature((None, width), "float32", meaning, rate=mel.FRAME_RATE)

    features = {**{c: clips.features[c] for c in ("id", *CARRIED)},
                "mel": sequence(mel.RECIPE["bands"], "normalised log-mel of the speech"),
                "face": sequence(clips.features["face"].shape[1], "expression code"),
                "head": sequence(7, "z-scored head pose")}
    clock = {"rate": mel.FRAME_RATE}
    recipes = {"family": {"kind": "portrait"}, "mel": dict(mel.SPEECH),
               "face": clips.recipes["face"] | clock, "head": {"kind": "linear"} | clock}
    codecs = {c: clips.codec(c) for c in clips.codecs}
    codecs[SPEAKERS] = common.speakers(clips, "train")
    with common.job(out_dir, clips, "portrait") as job:
        return store.write_dataset(
            job, name=name, description=f"Portrait's features of {clips.name}.",
            features=features, recipes=recipes, codecs=codecs, totals=clips.splits,
            splits={s: common.each(clips.source(s, fields), example, max_bad)
                    for s in clips.splits}, max_bad=max_bad, progress=progress)
