"""Sound and pictures out of files, by timestamps (write_media.py writes them).

What reads them lives in modules of its own, whose functions are named here: `containers` (what is
in a file, its clock), `sound`, `video` and `whole` (is it all there?).
"""

from data_pipelines.media import sound
from data_pipelines.media.containers import (
           AUDIO_SUFFIXES,
           VIDEO_SUFFIXES,
           MediaError,
           Probe,
           Stream,
           probe,
)
from data_pipelines.media.sound import Sound, channels, first_time, read_audio, say
from data_pipelines.media.video import frames_at, iterate_video, video_times
from data_pipelines.media.whole import check_riff, check_whole

read_sound = sound.read
__all__ = ["AUDIO_SUFFIXES", "VIDEO_SUFFIXES", "MediaError", "Probe", "Sound", "Stream",
           "channels", "check_riff", "check_whole", "first_time", "frames_at", "iterate_video",
           "probe", "read_audio", "read_sound", "say",
           "video_times"]
