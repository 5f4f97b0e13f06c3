"""Everything above and around the mouth: blinks, brows, gaze, smile and 6-DoF head motion that
follow the prosody.

Nearly all of it is decided by the text's timing, stress and punctuation and by the identity, so it
can be learned; what is random is small. Listeners nod and smile at back-channels.
"""

import dataclasses

import numpy as np

from avjax.encoders import espeak
from avjax.signal import rates
from data_pipelines.puppets import articulation
from data_pipelines.puppets.face_code import INDEX, WIDTH

FPS = rates.VIDEO
NOISE = 0.05  # standard deviation of what is random, relative to a full movement
_HOLD = 0.012  # seconds of rest on either side of a vowel's onset
_LIFT = {"brow_left": 0.5, "brow_right": 0.45, "cheek_raise": 0.3, "smile": 0.3, "gaze_x": 0.2,
         "gaze_y": 0.25}
_CALM = 2.2  # seconds without a blink after which the next stressed syllable brings one


@dataclasses.dataclass(frozen=True)
class Reaction:
    """Of a listener: nods and a smile around [start, end] seconds."""

    start: float
    end: float


def perform(phonemes, duration: float, identity: np.ndarray, rng: np.random.Generator,
            reactions: list[Reaction] = (), noise: float = NOISE) -> tuple[np.ndarray, np.ndarray]:
    """(N, 16) articulators and (N, 7) pose (unit quaternion wxyz, translation in head heights) at
    30 Hz."""
    n = int(np.ceil(duration * FPS))
    time = np.arange(n) / FPS
    cheer, manner = float(identity[3]), float(identity[7])
    phrases, beats = espeak.phrases_of(phonemes), espeak.beats_of(phonemes)
    a = np.zeros((n, WIDTH))
    articulation.place(articulation.mouth(phonemes, n, FPS, manner=1 + 0.12 * manner), a)
    column = {name: a[:, i] for name, i in INDEX.items()}

    emphasis = _steps(time, phonemes)
    said = {mark: _plateaus(time, [(t0, t1) for t0, t1, m in phrases if m == mark], 0.12)
            for mark in espeak.PHRASES}
    reacting = _plateaus(time, [(r.start, r.end + 0.4) for r in reactions], 0.15)
    wobble = _noise(rng, n, 8) * noise

    column["smile"] += (0.12 + 0.1 * cheer + 0.6 * said["!"] + 0.15 * said["?"] + 0.55 * reacting
                        + wobble[:, 0] * 0.5)
    nod = _steps(time, phonemes)
    for name, share in _LIFT.items():  # the upper face moves with the head
        column[name] += share * nod
    raised = 0.45 * emphasis + 0.7 * _rising(time, phrases, "?") + 0.3 * said["!"] + 0.25 * reacting
    column["brow_left"] += raised + wobble[:, 1]
    column["brow_right"] += 0.8 * raised + 0.15 * said[","] + wobble[:, 1]
    for (t0, _, mark) in phrases:  # eyes leave the partner as a thought begins, and come back
        away = np.where(time >= t0 - 0.15,
                        np.exp(-np.maximum(time - t0, 0) / 0.4) * _ease((time - t0 + 0.15) / 0.15),
                        0)
        x, y = {",": (0.5, 0.1), ".": (-0.5, 0.3), "?": (0.3, -0.5), "!": (-0.1, -0.2)}[mark]
        column["gaze_x"] += x * away
        column["gaze_y"] += y * away
    column["gaze_x"] += wobble[:, 2]
    column["gaze_y"] += wobble[:, 3] - 0.1 * reacting
    blink = _blinks(time, phrases, beats, duration, reactions, rng, noise)
    column["blink_left"] += blink
    column["blink_right"] += 0.95 * blink
    column["cheek_raise"] += 0.6 * column["smile"] + 0.15 * np.maximum(column["lip_width"], 0)
    return a.astype(np.float32), _pose(time, phrases, nod, reactions, said, wobble, cheer)


def _pose(time, phrases, nod, reactions, said, wobble, cheer) -> np.ndarray:
    """Pitch > 0 looks down, yaw > 0 to the picture's right, roll > 0 tilts clockwise (radians); x
    right, y down, z near."""
    place = np.zeros_like(time)
    for t0, t1, _ in phrases:
        inside = (time >= t0) & (time < t1)
        place[inside] = np.sin(np.pi * (time[inside] - t0) / (t1 - t0))
    bob = np.zeros_like(time)
    for r in reactions:
        t = np.clip((time - r.start) / 0.8, 0, 1)
        bob += np.sin(2 * np.pi * t) ** 2 * (t < 1)
    yaw = 0.15 * place * (said["."] - said[","]) + 0.03 * nod + 0.03 * wobble[:, 4]
    pitch = (0.08 + 0.02
             * cheer) * nod - 0.08 * place * said["!"] + 0.16 * bob + 0.03 * wobble[:, 5]
    roll = 0.12 * place * said["?"] + 0.04 * place * said["."] - 0.03 * nod + 0.03 * wobble[:, 6]
    # A gesture that fills the phrase also moves the neck.
    x = 0.25 * yaw + 0.015 * wobble[:, 7]
    y = 0.35 * pitch - 0.02 * place
    z = 0.04 * nod + 0.05 * said["!"] + 0.04 * said["?"] * place + 0.03 * bob
    return np.concatenate([quaternion(yaw, pitch, roll), np.stack([x, y, z], 1)],
                          axis=1).astype(np.float32)


def quaternion(yaw, pitch, roll) -> np.ndarray:
    """(N, 4) wxyz of R = Ry(yaw) Rx(pitch) Rz(roll), w >= 0 for the angles that heads reach."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(v / 2), np.sin(v / 2)) for v in (yaw, pitch, roll))
    return np.stack([cy * cp * cr + sy * sp * sr, cy * sp * cr + sy * cp * sr, sy * cp * cr - cy
                     * sp * sr,
                     cy * cp * sr - sy * sp * cr], axis=1)


def _blinks(time, phrases, beats, duration, reactions, rng, noise):
    """A blink as each phrase ends, one on a stressed syllable after a long stare, and few by
    chance."""
    times = [t1 + 0.08 for _, t1, _ in phrases] + [r.end + 0.2 for r in reactions]
    for t, strength in beats:
        before = [other for other in times + [t0 for t0, _, _ in phrases] if other < t + 0.8]
        if strength == 1 and all(abs(t - other) > _CALM for other in before):
            times.append(t)
    idle = [t for t in np.arange(1.5, duration, 3.0)
            if not any(abs(t - other) < 2 for other in times)]
    inside = [t for t in idle if not any(a - 0.3 < t < b + 0.3 for a, b, _ in phrases)]
    times += inside  # listening
    if noise and rng.random() < 0.08:
        times.append(rng.uniform(0.2, max(duration - 0.2, 0.3)))
    out = np.zeros_like(time)
    for t in times:
        x = time - t - (rng.normal() * 0.2 * noise if noise else 0)
        out = np.maximum(out, np.clip(np.minimum(1 + x / 0.09, 1.25 - x / 0.16), 0, 1))
    return out


def _steps(time, phonemes):
    """A movement to the metre: it comes to rest at every vowel's onset, where the sound begins too,
    down and up by turns and further at stressed ones. 0 in silence."""
    at, depth = [-1.0], [0.0]
    feet = {t0: (place, stress) for t0, place, stress in espeak.feet_of(phonemes)}
    for symbol, t0, t1 in phonemes:
        if t0 in feet:
            place, stress = feet[t0]
            at.append(t0)
            depth.append(0.7 + 0.5 * stress if place % 2 == 0 else -0.3 * stress)
        elif not espeak.classes_of(symbol) and t1 - t0 > 0.15:
            at += [t0 + 0.1, t1 - 0.1] if t1 - t0 > 0.3 else [(t0 + t1) / 2]
            depth += [0.0] * (2 if t1 - t0 > 0.3 else 1)
    at, depth = np.array([*at, time[-1] + 1.0]), np.array([*depth, 0.0])
    i = np.clip(np.searchsorted(at, time, "right") - 1, 0, len(at) - 2)
    start, end = at[i] + _HOLD, at[i + 1] - _HOLD
    eased = _ease((time - start) / np.maximum(end - start, 1e-3))
    return depth[i] + (depth[i + 1] - depth[i]) * eased


def _plateaus(time, spans, ramp):
    out = np.zeros_like(time)
    for t0, t1 in spans:
        out = np.maximum(out,
                         _ease((time - t0
                                + ramp) / (2 * ramp)) * _ease((t1 + ramp - time) / (2 * ramp)))
    return out


def _rising(time, phrases, mark):
    """Grows towards the end of phrases of this mark, then lets go."""
    out = np.zeros_like(time)
    for t0, t1, m in phrases:
        if m == mark:
            out += np.clip((time - t0) / (t1 - t0), 0, 1) * _ease((t1 + 0.25 - time) / 0.25)
    return out


def _ease(x):
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _noise(rng, n, width):
    """(n, width) smooth random curves of unit variance: white noise through two poles at 1.5 Hz."""
    from scipy.signal import lfilter

    pole = np.exp(-2 * np.pi * 1.5 / FPS)
    white = rng.normal(size=(n + 4 * FPS, width))
    out = lfilter([1], [1, -2 * pole, pole * pole], white, axis=0)[4 * FPS:]
    return out / np.sqrt((1 + pole ** 2) / (1 - pole ** 2) ** 3)
