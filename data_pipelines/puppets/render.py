"""Draws a puppet: articulators, head pose and identity -> pictures.

The face is points on an ellipsoid that the head pose turns and moves before they are projected, so that rotation shows
as parallax. Head coordinates: x to the picture's right, y down, z to the viewer, 1 = half the head's height.
"""

import functools

import cv2
import numpy as np

from data_pipelines.puppets.face_code import NAMES

_SHIFT = 4  # sub-pixel bits of OpenCV's drawing
_INK = (52, 36, 40)


@functools.lru_cache(maxsize=64)
def _looks(identity: tuple[float, ...]) -> dict:
    """Sizes and colours (RGB) of an identity."""
    size, weight, haste, cheer, skin, hair, length, manner = identity

    def blend(colours, at):
        at = np.clip((at + 1) / 2, 0, 1) * (len(colours) - 1)
        i = min(int(at), len(colours) - 2)
        return np.array(colours[i], float) * (1 - at + i) + np.array(colours[i + 1], float) * (at - i)

    skin = blend([(120, 78, 56), (176, 122, 88), (226, 178, 142), (250, 216, 190)], skin)
    hair = blend([(40, 30, 32), (92, 54, 34), (170, 84, 40), (222, 178, 96)], hair)
    return {"width": 0.80 + 0.06 * size, "jaw": 0.84 - 0.16 * size, "chin": 1.0 + 0.05 * size,
            "brow": 0.045 + 0.015 * weight,
            "nose": 0.11 + 0.03 * weight, "eye": 0.165 + 0.025 * haste, "lips": 0.065 + 0.02 * cheer,
            "long": length, "skin": skin, "hair": hair,
            "iris": blend([(70, 44, 30), (58, 110, 70), (60, 120, 180)], manner),
            "shirt": blend([(70, 120, 170), (110, 160, 120), (200, 120, 100), (230, 190, 110)], weight)}


class _Canvas:
    def __init__(self, size, rotation, translation):
        self.image = np.empty((size, size, 3), np.uint8)
        self.image[:] = np.linspace((226, 234, 240), (200, 214, 226), size).astype(np.uint8)[:, None]
        self.scale, self.centre = 0.33 * size, np.array([0.5, 0.5]) * size
        self.rotation, self.translation = rotation, translation

    def project(self, points_K3):
        p = points_K3 @ self.rotation.T + 2 * self.translation  # 1 head height = 2 units
        near = 6 / (6 - p[:, 2:])
        return p[:, :2] * near * self.scale + self.centre

    def fill(self, points_K3, colour, fixed=False):
        points = points_K3[:, :2] * self.scale + self.centre if fixed else self.project(points_K3)
        cv2.fillPoly(self.image, [np.round(points * 2 ** _SHIFT).astype(np.int32)], _rgb(colour), cv2.LINE_AA, _SHIFT)

    def line(self, points_K3, colour, width, closed=False):
        points = np.round(self.project(points_K3) * 2 ** _SHIFT).astype(np.int32)
        thick = max(1, round(width * self.scale))
        cv2.polylines(self.image, [points], closed, _rgb(colour), thick, cv2.LINE_AA, _SHIFT)


def _rgb(colour):
    return tuple(int(np.clip(c, 0, 255)) for c in colour)


def _surface(x, y, lift=0.0):
    """(K, 3) points of the front of the head."""
    z = 0.75 * np.sqrt(np.maximum(0.04, 1 - (x / 1.05) ** 2 - (y / 1.25) ** 2)) + lift
    return np.stack([x, y, z], axis=-1)


def _ring(cx, cy, rx, ry, count=28):
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return cx + rx * np.cos(t), cy + ry * np.sin(t)


def render(articulators, pose_N7, identity, size: int = 256) -> np.ndarray:
    """(N, size, size, 3) uint8 RGB.

    Args:
      articulators: {name: (N,)} of face_code.NAMES.
      pose_N7: unit quaternion wxyz and translation in head heights.
      identity: (8,).
    """
    looks = _looks(tuple(round(float(v), 4) for v in np.clip(identity, -1, 1)))
    n = min(len(pose_N7), *(len(articulators[name]) for name in NAMES))
    out = np.empty((n, size, size, 3), np.uint8)
    for i in range(n):
        out[i] = _draw({name: float(articulators[name][i]) for name in NAMES}, pose_N7[i], looks, size)
    return out


def portrait(identity, size: int = 256) -> np.ndarray:
    """(size, size, 3) uint8: the neutral face, looking at the viewer, with a hint of a smile."""
    neutral = {name: np.zeros(1) for name in NAMES} | {"smile": np.array([0.25]), "lip_aperture": np.array([-0.1])}
    return render(neutral, np.array([[1.0, 0, 0, 0, 0, 0, 0]]), identity, size)[0]


def rotation_matrix(q) -> np.ndarray:
    """(3, 3) of a quaternion wxyz in picture coordinates, where pitch > 0 looks down and yaw > 0 to the right."""
    w, x, y, z = np.asarray(q, np.float64) / max(np.linalg.norm(q), 1e-9)
    x = -x  # y points down here: about x, positive turns bring the front towards +y
    return np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                     [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                     [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]])


def _draw(a, pose, looks, size):
    canvas = _Canvas(size, rotation_matrix(pose[:4]), np.asarray(pose[4:], np.float64))
    jaw = 0.10 * np.clip(a["jaw_open"], -0.2, 1.5)
    _hair_behind(canvas, looks)
    _body(canvas, looks)
    _head(canvas, looks, jaw)
    smile = np.clip(a["smile"], -1, 1.5)
    _cheeks(canvas, looks, np.clip(a["cheek_raise"], 0, 1.5))
    for side, name in ((-1, "left"), (1, "right")):
        _eye(canvas, looks, side, np.clip(a[f"blink_{name}"], 0, 1), a["gaze_x"], a["gaze_y"], a["cheek_raise"])
        _brow(canvas, looks, side, a[f"brow_{name}"])
    _nose(canvas, looks)
    _mouth(canvas, looks, a, jaw, smile)
    _hair_front(canvas, looks)
    return canvas.image


def _hair_behind(canvas, looks):
    layers = [(-0.05, looks["width"] + 0.05, 0.98, 0.1)]  # under the fringe: no gap beside it when the head turns
    if looks["long"] > -0.2:
        layers.insert(0, (0.3 + 0.9 * (looks["long"] + 0.2), looks["width"] + 0.16, 1.06, -0.35))
    t = np.linspace(np.pi, 2 * np.pi, 20)
    for low, w, high, z in layers:
        x = np.concatenate([w * np.cos(t), [w * 0.95, -w * 0.95]])
        y = np.concatenate([-0.08 + high * np.sin(t), [low, low]])
        canvas.fill(np.stack([x, y, np.full_like(x, z)], 1), looks["hair"] * 0.8)


def _body(canvas, looks):
    neck = np.array([[-0.3, 0.6, -0.2], [0.3, 0.6, -0.2], [0.34, 1.35, -0.2], [-0.34, 1.35, -0.2]])
    moved = neck.copy()
    moved[:2, :2] = (canvas.project(neck[:2]) - canvas.centre) / canvas.scale  # the neck's top follows the head
    canvas.fill(moved, looks["skin"] * 0.82, fixed=True)
    x, y = _ring(0, 1.75, 1.05, 0.58)
    canvas.fill(np.stack([x, y, 0 * x], 1), looks["shirt"], fixed=True)


def _head(canvas, looks, jaw):
    w = looks["width"]
    for side in (-1, 1):
        x, y = _ring(side * (w + 0.02), 0.02, 0.11, 0.18)
        canvas.fill(np.stack([x, y, np.full_like(x, -0.05)], 1), looks["skin"] * 0.92)
    t = np.linspace(0, np.pi, 24)
    cosine, sine = np.cos(t), np.sin(t)
    low_x = w * np.sign(cosine) * np.abs(cosine) ** looks["jaw"]  # a larger exponent makes a more pointed chin
    low_y = 0.05 + (looks["chin"] + jaw - 0.05) * sine
    x = np.concatenate([low_x, -w * np.sign(cosine) * np.abs(cosine) ** 0.85])
    y = np.concatenate([low_y, 0.05 - 0.98 * sine])
    canvas.fill(np.stack([x, y, np.full_like(x, 0.05)], 1), looks["skin"])


def _cheeks(canvas, looks, raised):
    for side in (-1, 1):
        x, y = _ring(side * 0.42, 0.26 - 0.06 * raised, 0.15, 0.10 + 0.02 * raised)
        canvas.fill(_surface(x, y), looks["skin"] * 0.93 + np.array([20, -6, -4]) * (0.5 + 0.5 * raised))


def _eye(canvas, looks, side, blink, gaze_x, gaze_y, cheek):
    cx, cy, r = side * 0.34, -0.13, looks["eye"]
    opening = 1 - blink
    top = r * (0.85 * opening - 0.35 * blink)  # a closed lid hangs below the middle
    bottom = r * (0.62 * (1 - 0.25 * np.clip(cheek, 0, 1)) * opening + 0.4 * blink)
    t = np.linspace(0, np.pi, 14)
    x = np.concatenate([cx - r * np.cos(t), cx + r * np.cos(t)])
    y = np.concatenate([cy - top * np.sin(t), cy + bottom * np.sin(t)])
    lid = _surface(x[:14], y[:14], 0.02)
    if opening > 0.12:
        canvas.fill(_surface(x, y), (252, 252, 250))
        gx, gy = cx + 0.45 * r * np.clip(gaze_x, -1, 1), cy + 0.02 + 0.35 * r * np.clip(gaze_y, -1, 1)
        for radius, colour in ((0.56, looks["iris"]), (0.28, (18, 14, 18))):
            ix, iy = _ring(gx, gy, radius * r, radius * r)
            low, high = cy - top * _arc((ix - cx) / r), cy + bottom * _arc((ix - cx) / r)
            canvas.fill(_surface(ix, np.clip(iy, low, high), 0.01), colour)
        gl_x, gl_y = _ring(gx + 0.16 * r, gy - 0.18 * r, 0.1 * r, 0.1 * r, 10)
        if gy - 0.28 * r > cy - top:
            canvas.fill(_surface(gl_x, gl_y, 0.02), (255, 255, 255))
    canvas.line(lid, _INK, 0.035)


def _arc(u):
    return np.sqrt(np.maximum(0, 1 - np.clip(u, -1, 1) ** 2))


def _brow(canvas, looks, side, raise_):
    raise_ = np.clip(raise_, -0.6, 1.2)
    x = side * np.linspace(0.17, 0.53, 8)
    y = -0.36 - 0.09 * raise_ - 0.05 * np.sin(np.linspace(0.2, np.pi * 0.95, 8)) * (1 + 0.5 * raise_)
    canvas.line(_surface(x, y), looks["hair"] * 0.7, looks["brow"] + 0.02)


def _nose(canvas, looks):
    w = looks["nose"]
    x, y = _ring(0, 0.22, w, 0.07)
    canvas.fill(_surface(x, y, 0.14), looks["skin"] * 0.9)
    canvas.line(np.array([[0.02, -0.08, 0.74], [0.05, 0.08, 0.84], [0.035, 0.16, 0.9]]), looks["skin"] * 0.84, 0.025)


def _mouth(canvas, looks, a, jaw, smile):
    """Inner lips from aperture, width, smile; teeth above, tongue below, both clipped to the opening column by column."""
    half = 0.27 * (1 + 0.28 * a["lip_width"] - 0.25 * a["lip_protrusion"] + 0.22 * smile)
    gap = 0.30 * max(a["lip_aperture"], 0.0)
    press = max(-a["lip_aperture"], 0.0)
    u = np.linspace(-1, 1, 21)
    middle = 0.53 + 0.35 * jaw - 0.12 * smile * (u ** 2 - 0.4)
    shape = (1 - u ** 2) ** 0.7
    upper = middle - (0.4 * gap + 0.035 * a["upper_lip_raise"]) * shape
    lower = middle + (0.6 * gap + 0.035 * a["lower_lip_drop"]) * shape
    if gap < 0.003:
        upper = lower = (upper + lower) / 2  # pressed lips meet, whatever pulls on them
    lower = np.maximum(lower, upper)
    x = half * u
    forward = 0.10 * a["lip_protrusion"]
    thick = looks["lips"] * (1 + 0.45 * a["lip_protrusion"]) * (1 - 0.6 * min(press, 0.5)) * (1 - 0.12 * smile)

    def between(top, bottom):
        return _surface(np.concatenate([x, x[::-1]]), np.concatenate([top, bottom[::-1]]), 0.04 + forward)

    bow = (1 - np.abs(u) ** 3) * (1 - 0.25 * np.exp(-(u / 0.18) ** 2))
    colour = looks["skin"] * 0.62 + np.array([200, 70, 80]) * 0.36
    canvas.fill(between(upper - thick * bow, upper + 0.004), colour * 0.95)
    canvas.fill(between(lower - 0.004, lower + 1.25 * thick * (1 - np.abs(u) ** 3)), colour * 1.05)
    if gap > 0.003:
        canvas.fill(between(upper, lower), (78, 22, 30))
        raised = np.clip(0.35 + 0.5 * a["tongue_tip"] + 0.35 * a["tongue_body"], 0.05, 1.0)
        inside = 0.82
        tongue_top = lower - (lower - upper) * raised * np.where(np.abs(u) < inside, _arc(u / inside), 0)
        canvas.fill(between(np.maximum(tongue_top, upper), lower), (206, 96, 104))
        teeth = np.minimum(0.06 * (1 + 0.8 * max(a["upper_lip_raise"], 0)), 0.55 * (lower - upper)) * _arc(u / 0.92)
        canvas.fill(between(upper, np.minimum(upper + teeth, lower)), (250, 248, 242))
    else:
        canvas.line(_surface(x, upper, 0.05 + forward), colour * 0.55, 0.022)


def _hair_front(canvas, looks):
    w = looks["width"] + 0.05
    t = np.linspace(np.pi, 2 * np.pi, 28)
    fringe = np.linspace(w, -w, 28)
    side = np.abs(fringe / w)
    line = -0.60 + 0.10 * side ** 2 + 0.06 * np.sin(3.2 * fringe + 2 * looks["long"]) + 0.05 * looks["long"]
    line = line + (-0.05 - line) * side ** 10  # side burns
    x = np.concatenate([w * np.sign(np.cos(t)) * np.abs(np.cos(t)) ** 0.8, fringe])
    y = np.concatenate([-0.05 + (1.0 + 0.06 * (looks["long"] > -0.6)) * np.sin(t), line])
    front = 0.75 * np.sqrt(np.maximum(0.05, 1 - (fringe / 1.05) ** 2 - (line / 1.25) ** 2))
    z = np.concatenate([np.full(28, 0.1), front + (0.1 - front) * side ** 6])
    canvas.fill(np.stack([x, y, z], 1), looks["hair"])
