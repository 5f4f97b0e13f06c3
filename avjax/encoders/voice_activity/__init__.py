"""Where somebody speaks: one way in, two kinds.

    energy  no weights: frames within 35 dB of the channel's loud ones (energy.py). For clean
            channels; it takes any loud sound for speech.
    neural  Silero VAD with the weights of an installed package (silero.py)

Both say for every 32 ms whether it is speech, and one rule makes stretches of that (segments.py),
whose options a user may give: "neural:threshold=0.6,min_silence_ms=300". turn_taking.py makes
turns, back-channels, gaps, overlaps and pauses of the stretches.
"""

from avjax.encoders.voice_activity.detector import HELP, KINDS, Detector, speech

__all__ = ["HELP", "KINDS", "Detector", "speech"]
