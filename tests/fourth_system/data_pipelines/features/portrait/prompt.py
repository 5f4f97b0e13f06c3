"""Speech drives Portrait: avjax generate --workdir=DIR --audio=FILE [--speaker=NAME]."""

import pathlib

from avjax.errors import UserError
from avjax.signal import mel
from data_pipelines import media, prompting
from data_pipelines.prompting import AUDIO, SPEAKER


class PromptBuilder(prompting.PromptBuilder):
    """See data_pipelines.prompting.PromptBuilder."""

    TAKES = (AUDIO, SPEAKER)
    SETTINGS = {"steps": ("steps",)}

    def build(self, request, system, decoder):
        """The speech as mel, and whose face is drawn. UserError without a speech file."""
        if not request.audio:
            raise UserError("nothing to say", where="--audio", expected="a speech file")
        known = prompting.identities(decoder.codecs)
        speaker = prompting.choose_speaker(request.speaker, known)
        sound = mel.of_speech(media.read_audio(request.audio, mel.RECIPE["sample_rate"]))
        return prompting.Prompt(system.tasks[0], ({"mel": sound},), len(sound),
                                pathlib.Path(request.audio).name, speaker=speaker,
                                identity=known[speaker], seconds=len(sound) / mel.FRAME_RATE)
