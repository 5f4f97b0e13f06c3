"""Does it sound like that person to people? What VoxSim's network predicts that listeners would
say. Papers print its cosine, too: .38 there is 2.9 here."""

from eval.networks.speech import voxsim
from eval.networks.speech.sound import RESAMPLER
from eval.registry import declare


def _score(case):
    """None: silence, or no recording to compare with."""
    benchmark = case.benchmark
    recording_N = benchmark.clip_audio(case.split, case.index)
    if recording_N is None:
        return {"VoxSim": None}
    rate = benchmark.networks["voxsim"]
    return {"VoxSim": rate(case.signals.waveform, recording_N, benchmark.sample_rate)}


declare("VoxSim", "up", "likeness of the voice to the clip's own, as VoxSim predicts listeners', "
        "1 to 6", family="sound", score=_score,
        needs=("audio", "waveform", "each", "network:voxsim"),
        recipe=lambda benchmark: {"implementation": "avjax eval.networks.voxsim 1",
                                  "reference": "the clip's own audio", **voxsim.RECIPE,
                                  **RESAMPLER})
