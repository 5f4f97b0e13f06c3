"""LSE-C, LSE-D and the audio-video offset by SyncNet: do the lips of the pictures move with the
sound? The truth's own numbers are the ones to compare with: codecs and the vocoder cost some.

Protocol A: pictures are seen whole, at 224 x 224, as by the `calculate_scores_LRS.py` of Wav2Lip.
Protocol B (`_face`): the longest track of a face is cropped first, as by the `run_pipeline.py` of
SyncNet's own code, with its sizes and thresholds; but faces are found by OpenCV's cascade, which
draws other boxes than S3FD does there, and a clip counts as one shot. Never compare the two.
SyncNet has seen people only: what it says of drawn puppets means nothing.
Suffixes: H W picture, N samples.
"""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from avjax.signal.resample import resampled
from data_pipelines.media import faces
from eval.networks import syncnet
from eval.networks.pictures import face_tracks
from eval.registry import declare

RECIPE = {"implementation": "avjax eval.metrics.judged.syncnet 1",
          "protocol": "A: whole pictures, as calculate_scores_LRS.py", "size": syncnet.SIZE,
          "resize": "OpenCV, bilinear", "colours": "BGR, 0 to 255", "fps": syncnet.FPS,
          "frames": "nearest in time", "sample_rate": syncnet.SAMPLE_RATE, "resampler": "soxr HQ",
          "samples": "int16", "shifts": syncnet.SHIFTS, "pooling": "mean over examples"}
FACE_RECIPE = RECIPE | {"protocol": "B: the longest track of a face, cropped as by run_pipeline.py",
                        "detector": faces.RECIPE["detector"], **face_tracks.RECIPE}
SAMPLES = syncnet.SAMPLE_RATE // syncnet.FPS  # of a picture


def nearest(pictures: Iterable[np.ndarray], count: int, fps: int) -> Iterator[np.ndarray]:
    """Of `count` pictures at `fps` those at 25 frames a second, nearest in time."""
    wanted = [min(int(k * fps / syncnet.FPS + 0.5), count - 1)
              for k in range(count * syncnet.FPS // fps)]
    k = 0
    for index, picture in enumerate(pictures):
        while k < len(wanted) and wanted[k] == index:
            yield picture
            k += 1


def seen(picture_HW3: np.ndarray) -> np.ndarray:
    """RGB of any size -> (224, 224, 3) uint8 BGR."""
    return cv2.resize(picture_HW3, (syncnet.SIZE, syncnet.SIZE))[..., ::-1]


def heard(wave_N: np.ndarray, rate: int) -> np.ndarray:
    """Samples in [-1, 1] -> int16 at 16 kHz."""
    wave_N = resampled(wave_N, rate, syncnet.SAMPLE_RATE)
    return np.clip(np.round(wave_N * 32768), -32768, 32767).astype(np.int16)


def _score(case):
    network, count, audio_N = _given(case)
    return network(map(seen, _pictures(case)), count, audio_N) or {}


def _score_face(case):
    network, count, audio_N = _given(case)
    track = face_track(_pictures(case))
    if track is None:
        return {}
    begin = track.first * SAMPLES
    found = network((crop[..., ::-1] for crop in track.crops(_pictures(case), syncnet.SIZE)),
                    len(track), audio_N[begin:begin + len(track) * SAMPLES])
    return {f"{name}_face": value for name, value in (found or {}).items()}


def face_track(pictures: Iterable[np.ndarray]) -> face_tracks.Track | None:
    """The longest track of (H, W, 3) uint8 RGB pictures; None where there is none."""
    find = faces.detector()
    found = [[(x, y, x + w, y + h) for x, y, w, h in find(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY))]
             for p in pictures]
    return max(face_tracks.tracks(found), key=len, default=None)


def _given(case):
    """(network, pictures at 25 a second, samples)."""
    benchmark = case.benchmark
    count = case.pictures(case.signals)[0] * syncnet.FPS // benchmark.decoder.fps
    return (benchmark.networks["syncnet"], count,
            heard(case.signals.waveform, benchmark.sample_rate))


def _pictures(case) -> Iterator[np.ndarray]:
    """Made anew whenever they are asked for: all of a clip may be too many to keep."""
    count, pictures = case.pictures(case.signals)
    return nearest(pictures, count, case.benchmark.decoder.fps)


for _suffix, _how, _function, _recipe in (("", "whole picture", _score, RECIPE),
                                          ("_face", "cropped face", _score_face, FACE_RECIPE)):
    for _name, _better, _meaning, _unit in (
            ("LSE_C", "up", "SyncNet's confidence that lips move with the sound", ""),
            ("LSE_D", "down", "SyncNet's distance of lips and sound at the best shift", ""),
            ("LSE_offset", "zero", "SyncNet's best shift, positive where pictures come late",
             "frames of 25 Hz")):
        declare(_name + _suffix, _better, f"{_meaning}; {_how} ({_recipe['protocol'][0]})",
                unit=_unit, family="lips", score=_function,
                recipe=lambda benchmark, recipe=_recipe: recipe,
                needs=("both", "waveform", "each", "pictures", "network:syncnet"))
