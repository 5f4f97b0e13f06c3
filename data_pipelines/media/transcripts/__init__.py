"""Who says what, and when: transcripts in the forms people have them.

    .json         words with times: WhisperX and Whisper, Seamless, [[word, start, end], ...]
    .rttm, .stm   NIST's tables of segments; together, STM says the words and RTTM who else spoke
    .TextGrid     Praat's, long or short, a tier a speaker
    .vtt, .srt    subtitles
    .txt          "Anna: Hello.", a line a turn, without times; without names, one speaker's words

`read` is the way in; said.py has what it gives and the checks that all formats share.
"""

from data_pipelines.media.transcripts.read import SUFFIXES, read
from data_pipelines.media.transcripts.said import Said, TranscriptError, folded

__all__ = ["SUFFIXES", "Said", "TranscriptError", "folded", "read"]
