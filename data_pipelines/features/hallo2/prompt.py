"""What drives TAVID's visual networks alone: Hallo2's way, a sound and a portrait; or an example of
a dataset, whose sound is written beside the pictures.

The features are TAVID's (data_pipelines/features/tavid), extracted with an audio encoder.
"""

import json
import pathlib

import numpy as np

from avjax.codecs import pictures
from avjax.encoders import portrait
from avjax.encoders.driving import layers
from avjax.errors import UserError
from avjax.signal import level
from data_pipelines import media, prompting
from data_pipelines.features.common import portraits
from data_pipelines.features.tavid import sounding
from data_pipelines.features.tavid.conversations import HOP, RATE, SAMPLE_RATE
from data_pipelines.features.tavid.frozen_encoders import at_16k
from data_pipelines.features.tavid.prompt import file_names
from data_pipelines.prompting import Input, Prompt, Request

KEPT = "audio_encoder"  # folder of a workdir with the weights that hear the sound


class PromptBuilder(prompting.PromptBuilder):
    """Conditions of one speaker's sound and portrait."""

    SYSTEM = "tavid.visual"
    TAKES = (prompting.TASK, prompting.AUDIO,
             Input("portrait", "Picture of a face, which the pictures show."),
             Input("face", "\"unchecked\" takes portraits as they are, whether a face is found in "
                           "them or not."),
             Input("audio_encoder", "Weights of the wav2vec 2.0 network that the features were "
                                    f"made with; default those in WORKDIR/{KEPT}."),
             prompting.EXAMPLE, prompting.DATA)
    SETTINGS = {"steps": ("steps",), "guidance": ("guidance", "guidance_motion")}

    def build(self, request: Request, system, decoder) -> Prompt:
        """UserError for sound that cannot be read, a portrait without one face, and a system that
        units drive, of which only examples can be shown."""
        task = request.task or system.tasks[0]
        prompting.check_task(task, system)
        row = prompting.read_example(request, system, decoder) if request.example else {}
        if row and not request.audio and not request.portrait:
            return _of_row(system, row, task)
        if system.config.driver != "audio":
            raise UserError("this model is driven by units, which no sound here becomes",
                            where="--audio, --portrait", expected="--example=SPLIT/ID", found="no "
                            "example", hint="train configs/hallo2.py, which sound drives")
        if system.config.mapper.streams > 1:
            raise UserError("a model of several speakers", where="--audio", expected="--example",
                            found=f"{system.config.mapper.streams} speakers")
        if not row and not (request.audio and request.portrait):
            raise UserError("nothing to show", where="--audio, --portrait, --example",
                            expected="--audio=FILE and --portrait=FILE, or --example=SPLIT/ID",
                            found=", ".join(f"--{n}" for n in ("audio", "portrait")
                                            if getattr(request, n)) or "neither")
        example, given = {"id": row.get("id", "")} | row, {}
        if request.audio:
            sound_N = media.read_audio(request.audio, SAMPLE_RATE)
            example["audio"] = _heard(request, sound_N, decoder)
            given = {"sound": sound_N[:len(example["audio"]) * HOP, None]}
        else:
            given = {"mel": row["mel"]}
        if request.portrait:
            example |= shown(request.portrait, request.face, system, decoder)
        conditions, frames = system.conditions(example, task)
        name = pathlib.Path(request.audio).name if request.audio else row["id"]
        return Prompt(task, (conditions,), frames, name, seconds=frames / RATE, given=given)


def _of_row(system, row, task: str) -> Prompt:
    """An example as the system itself conditions on it."""
    conditions, frames = system.conditions(row, task)
    names = tuple(json.loads(row["speakers"]))
    return Prompt(task, (conditions,), frames, row["id"], seconds=frames / RATE,
                  speakers=file_names(names) if len(names) > 1 else (), given={"mel": row["mel"]})


def _heard(request: Request, sound_N: np.ndarray, decoder) -> np.ndarray:
    """(T, 1, A): of whole frames of the sound."""
    frames = len(sound_N) // HOP
    if not frames:
        raise UserError("too little sound", where=request.audio, expected=f"{1 / RATE} s or more",
                        found=f"{len(sound_N) / SAMPLE_RATE:.3f} s")
    kept = decoder.workdir / KEPT if decoder.workdir else None
    path = request.audio_encoder or (str(kept) if kept and kept.is_dir() else None)
    encoder = layers.from_recipe(decoder.recipes.get("audio", {}), path, "recipes.json, audio")
    sound_N = level.normalised(np.asarray(sound_N, np.float32), SAMPLE_RATE, level.RECIPE)
    return encoder(at_16k(sound_N), frames)[:, None]


def shown(file: str, face: str, system, decoder) -> dict[str, np.ndarray]:
    """{"faces" (1, F), "reference" (1, h, w, 4), "regions", "face_mask"} of a portrait's file."""
    if face not in ("", "checked", portraits.UNCHECKED):
        raise UserError("no such way to look at portraits", where="--face",
                        expected=f"checked or {portraits.UNCHECKED}", found=repr(face))
    if "latents" not in decoder.recipes:
        raise UserError("nothing here makes latents of a portrait", where="recipes.json",
                        expected="latents and the codec vae", found=", ".join(decoder.recipes),
                        hint="import the release with its sd-vae-ft-mse, or train on features that "
                             "were extracted with --vae")
    recipe = decoder.recipes["portraits"]
    picture_HWC = portraits.prepared(portraits.read(file), recipe, file,
                                     checked=face != portraits.UNCHECKED)
    encoder = portrait.from_recipe(decoder.recipes["faces"], decoder.codecs.get("faces"))
    codec = pictures.from_recipe(decoder.recipes["latents"], decoder.codec("vae"))
    reference = np.asarray(codec.encode(picture_HWC[None]), np.float32)
    return {"faces": encoder.of_file(file, picture_HWC)[None], "reference": reference,
            "regions": sounding.regions(recipe, *reference.shape[1:3])[None],
            "face_mask": sounding.face_mask(recipe, *picture_HWC.shape[:2])[None]}
