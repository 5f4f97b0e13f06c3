"""What drives a vocoder: the mel of a recording, or of an example of a dataset; it makes the sound
again."""

import pathlib

from avjax.errors import UserError
from avjax.inference import padding
from avjax.signal import mel
from data_pipelines import media, prompting
from data_pipelines.features.vocoder.extract import loud
from data_pipelines.prompting import Prompt


class PromptBuilder(prompting.PromptBuilder):
    """Mel of sound."""

    TAKES = (prompting.TASK, prompting.AUDIO, prompting.EXAMPLE, prompting.DATA)

    def build(self, request, system, decoder) -> Prompt:
        """UserError for unusable audio, or nothing to make."""
        task = request.task or system.tasks[0]
        prompting.check_task(task, system)
        given = [name for name in ("audio", "example") if getattr(request, name)]
        if len(given) != 1:
            raise UserError("sound of what?", where="--audio, --example",
                            expected="exactly one of them", found=" and ".join(given) or "none")
        if request.example:
            row = prompting.read_example(request, system, decoder)
            name = row["id"]
            conditions, frames = system.conditions(row, task)
        else:
            recipe = system.recipe
            audio_N = media.read_audio(request.audio, recipe["sample_rate"])
            # at the level that it was trained on
            loudness = decoder.recipes.get("made_by", {}).get("loudness", "speech")
            log_mel = mel.log_mel(loud(audio_N, loudness, recipe), recipe)
            name, (conditions, frames) = pathlib.Path(request.audio).name, system.conditions(
                {"mel": log_mel}, task)
        conditions = padding.complete(system, conditions)
        return Prompt(task, (conditions,), frames, name, seconds=frames * system.recipe["hop"]
                      / system.recipe["sample_rate"])
