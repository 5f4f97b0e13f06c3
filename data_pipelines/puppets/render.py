"""Draws a puppet: articulators, head pose and identity -> pictures.

The face is points on an ellipsoid that the head pose turns and moves before they are projected, so
that rotation shows
as parallax. Head coordinates: x to the picture's right, y down, z to the viewer, 1 = half the
head's height. Shapes are worked out for all frames at once, then drawn frame by frame. Suffixes: N
frames, K points.
"""

import functools

import cv2
import numpy as np

from data_pipelines.media import head_rotation
from data_pipelines.puppets.face_code import NAMES

_SHIFT = 4  # sub-pixel bits of OpenCV's drawing
_AT_ONCE = 256  # frames whose shapes are held
_INK = (52, 36, 40)


@functools.lru_cache(maxsize=64)
def _looks(identity: tuple[float, ...]) -> dict:
    """Sizes and colours (RGB) of an identity."""
    size, weight, haste, cheer, skin, hair, length, manner = identity

    def blend(colours, at):
        at = np.clip((at + 1) / 2, 0, 1) * (len(colours) - 1)
        i = min(int(at), len(colours) - 2)
        low, high = (np.array(colour, float) for colour in colours[i:i + 2])
        return low * (1 - at + i) + high * (at - i)

    skin = blend([(120, 78, 56), (176, 122, 88), (226, 178, 142), (250, 216, 190)], skin)
    hair = blend([(40, 30, 32), (92, 54, 34), (170, 84, 40), (222, 178, 96)], hair)
    return {"width": 0.80 + 0.06 * size, "jaw": 0.84 - 0.16 * size, "chin": 1.0 + 0.05 * size,
            "brow": 0.045 + 0.015 * weight,
            "nose": 0.11 + 0.03 * weight, "eye": 0.165 + 0.025 * haste, "lips": 0.065 + 0.02
            * cheer,
            "long": length, "skin": skin, "hair": hair,
            "iris": blend([(70, 44, 30), (58, 110, 70), (60, 120, 180)], manner),
            "shirt": blend([(70, 120, 170), (110, 160, 120), (200, 120, 100), (230, 190, 110)],
                           weight)}


def render(articulators, pose_N7, identity, size: int = 256, zoom: float = 1.0) -> np.ndarray:
    """(N, size, size, 3) uint8 RGB.

    Below 128 pixels it is drawn twice as large and averaged: lines are whole pixels wide.

    Args:
      articulators: {name: (N,)} of face_code.NAMES.
      pose_N7: unit quaternion wxyz and translation in head heights.
      identity: (8,).
      zoom: 1 shows the shoulders; at 1.2 the head fills four fifths of the height.
    """
    looks = _looks(tuple(round(float(v), 4) for v in np.clip(identity, -1, 1)))
    n = min(len(pose_N7), *(len(articulators[name]) for name in NAMES))
    drawn = size if size >= 128 else 2 * size
    out = np.empty((n, size, size, 3), np.uint8)
    for start in range(0, n, _AT_ONCE):
        part = slice(start, min(start + _AT_ONCE, n))
        values = {name: np.asarray(articulators[name][part], np.float64)[:, None] for name in NAMES}
        for i, image in enumerate(_face(values, pose_N7[part], looks, drawn, zoom).images(), start):
            if drawn != size:
                image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
            out[i] = image
    return out


def portrait(identity, size: int = 256, zoom: float = 1.0, yaw: float = 0.0) -> np.ndarray:
    """(size, size, 3) uint8: the neutral face with a hint of a smile, looking at the viewer, or
    `yaw` degrees to the picture's right."""
    neutral = {name: np.zeros(1) for name in NAMES}
    neutral |= {"smile": np.array([0.25]), "lip_aperture": np.array([-0.1])}
    half = np.deg2rad(yaw) / 2
    turned = np.array([[np.cos(half), 0, np.sin(half), 0, 0, 0, 0]])
    return render(neutral, turned, identity, size, zoom)[0]


class _Scene:
    """Shapes of N frames in the order in which they are drawn. Points are (N or 1, K, 3), colours
    (3,) or (N, 3)."""

    def __init__(self, size, zoom, pose_N7):
        self.frames, self.size, self.scale, self._shapes = len(
            pose_N7), size, 0.33 * zoom * size, []
        self._turn_N33 = np.swapaxes(head_rotation.matrix(pose_N7[:, :4]), 1, 2)
        # 1 head height = 2 units
        self._shift_N13 = 2 * np.asarray(pose_N7[:, None, 4:], np.float64)

    def project(self, points_NK3):
        """(N, K, 2) before scaling: as if head coordinates."""
        p = points_NK3 @ self._turn_N33 + self._shift_N13
        return p[..., :2] * (6 / (6 - p[..., 2:]))

    def fill(self, points_NK3, colour, fixed=False, where=None):
        self._add(points_NK3, colour, fixed, where, None)

    def line(self, points_NK3, colour, width, where=None):
        self._add(points_NK3, colour, False, where, max(1, round(width * self.scale)))

    def _add(self, points_NK3, colour, fixed, where, thick):
        flat = points_NK3[..., :2] if fixed else self.project(points_NK3)
        pixels = np.round((flat * self.scale + 0.5 * self.size) * 2 ** _SHIFT).astype(np.int32)
        pixels = np.broadcast_to(pixels, (self.frames, *pixels.shape[1:]))
        colours = np.clip(np.broadcast_to(colour, (self.frames, 3)), 0, 255).astype(int).tolist()
        shown = np.broadcast_to(True if where is None else where, (self.frames, 1)).ravel().tolist()
        self._shapes.append((pixels, colours, shown, thick))

    def images(self):
        """(size, size, 3) uint8 each."""
        column = np.linspace((226, 234, 240), (200, 214, 226), self.size).astype(np.uint8)[:, None]
        background = np.repeat(column, self.size, axis=1)
        for i in range(self.frames):
            image = background.copy()
            for pixels, colours, shown, thick in self._shapes:
                if not shown[i]:
                    continue
                if thick is None:
                    cv2.fillPoly(image, [pixels[i]], colours[i], cv2.LINE_AA, _SHIFT)
                else:
                    cv2.polylines(image, [pixels[i]], False, colours[i], thick, cv2.LINE_AA, _SHIFT)
            yield image


def _face(a, pose_N7, looks, size, zoom) -> _Scene:
    """`a`: articulators (N, 1)."""
    scene = _Scene(size, zoom, np.asarray(pose_N7))
    jaw = 0.10 * np.clip(a["jaw_open"], -0.2, 1.5)
    _hair_behind(scene, looks)
    _body(scene, looks)
    _head(scene, looks, jaw)
    smile = np.clip(a["smile"], -1, 1.5)
    _cheeks(scene, looks, np.clip(a["cheek_raise"], 0, 1.5))
    for side, name in ((-1, "left"), (1, "right")):
        _eye(scene, looks, side, np.clip(a[f"blink_{name}"], 0, 1), a["gaze_x"], a["gaze_y"],
             a["cheek_raise"])
        _brow(scene, looks, side, a[f"brow_{name}"])
    _nose(scene, looks)
    _mouth(scene, looks, a, jaw, smile)
    _hair_front(scene, looks)
    return scene


def _points(x, y, z):
    """(N or 1, K, 3) of what broadcasts to (N, K)."""
    return np.stack(np.broadcast_arrays(np.atleast_2d(x), y, z), axis=-1).astype(np.float64)


def _surface(x, y, lift=0.0):
    """Points of the front of the head."""
    return _points(x, y,
                   0.75 * np.sqrt(np.maximum(0.04, 1 - (x / 1.05) ** 2 - (y / 1.25) ** 2)) + lift)


def _ring(cx, cy, rx, ry, count=28):
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return cx + rx * np.cos(t), cy + ry * np.sin(t)


def _arc(u):
    return np.sqrt(np.maximum(0, 1 - np.clip(u, -1, 1) ** 2))


def _closed(x, top, bottom):
    """An outline: along the top, back along the bottom; each (N or 1, K)."""
    x, top, bottom = np.broadcast_arrays(x, top, bottom)
    return np.concatenate([x, x[..., ::-1]], -1), np.concatenate([top, bottom[..., ::-1]], -1)


def _hair_behind(scene, looks):
    # under the fringe: no gap beside it when the head turns
    layers = [(-0.05, looks["width"] + 0.05, 0.98, 0.1)]
    if looks["long"] > -0.2:
        layers.insert(0, (0.3 + 0.9 * (looks["long"] + 0.2), looks["width"] + 0.16, 1.06, -0.35))
    t = np.linspace(np.pi, 2 * np.pi, 20)
    for low, w, high, z in layers:
        x = np.concatenate([w * np.cos(t), [w * 0.95, -w * 0.95]])
        y = np.concatenate([-0.08 + high * np.sin(t), [low, low]])
        scene.fill(_points(x, y, z), looks["hair"] * 0.8)


def _body(scene, looks):
    neck = np.array([[-0.3, 0.6, -0.2], [0.3, 0.6, -0.2], [0.34, 1.35, -0.2], [-0.34, 1.35, -0.2]])
    moved = np.repeat(neck[None], scene.frames, 0)
    moved[:, :2, :2] = scene.project(neck[None, :2])  # the neck's top follows the head
    scene.fill(moved, looks["skin"] * 0.82, fixed=True)
    x, y = _ring(0, 1.75, 1.05, 0.58)
    scene.fill(_points(x, y, 0.0), looks["shirt"], fixed=True)


def _head(scene, looks, jaw):
    w = looks["width"]
    for side in (-1, 1):
        x, y = _ring(side * (w + 0.02), 0.02, 0.11, 0.18)
        scene.fill(_points(x, y, -0.05), looks["skin"] * 0.92)
    t = np.linspace(0, np.pi, 24)
    cosine, sine = np.cos(t), np.sin(t)
    # a larger exponent makes a more pointed chin
    low_x = w * np.sign(cosine) * np.abs(cosine) ** looks["jaw"]
    low_y = 0.05 + (looks["chin"] + jaw - 0.05) * sine
    high_y = np.broadcast_to(0.05 - 0.98 * sine, low_y.shape)
    x = np.concatenate([low_x, -w * np.sign(cosine) * np.abs(cosine) ** 0.85])
    scene.fill(_points(x, np.concatenate([low_y, high_y], -1), 0.05), looks["skin"])


def _cheeks(scene, looks, raised):
    for side in (-1, 1):
        x, y = _ring(side * 0.42, 0.26 - 0.06 * raised, 0.15, 0.10 + 0.02 * raised)
        scene.fill(_surface(x, y), looks["skin"] * 0.93
                   + np.array([20, -6, -4]) * (0.5 + 0.5 * raised))


def _eye(scene, looks, side, blink, gaze_x, gaze_y, cheek):
    cx, cy, r = side * 0.34, -0.13, looks["eye"]
    opening = 1 - blink
    is_open = opening > 0.12
    top = r * (0.85 * opening - 0.35 * blink)  # a closed lid hangs below the middle
    bottom = r * (0.62 * (1 - 0.25 * np.clip(cheek, 0, 1)) * opening + 0.4 * blink)
    t = np.linspace(0, np.pi, 14)
    x = np.concatenate([cx - r * np.cos(t), cx + r * np.cos(t)])
    y = np.concatenate([cy - top * np.sin(t), cy + bottom * np.sin(t)], -1)
    scene.fill(_surface(x, y), (252, 252, 250), where=is_open)
    gx, gy = cx + 0.45 * r * np.clip(gaze_x, -1, 1), cy + 0.02 + 0.35 * r * np.clip(gaze_y, -1, 1)
    for radius, colour in ((0.56, looks["iris"]), (0.28, (18, 14, 18))):
        ix, iy = _ring(gx, gy, radius * r, radius * r)
        low, high = cy - top * _arc((ix - cx) / r), cy + bottom * _arc((ix - cx) / r)
        scene.fill(_surface(ix, np.clip(iy, low, high), 0.01), colour, where=is_open)
    gl_x, gl_y = _ring(gx + 0.16 * r, gy - 0.18 * r, 0.1 * r, 0.1 * r, 10)
    scene.fill(_surface(gl_x, gl_y, 0.02), (255, 255, 255),
               where=is_open & (gy - 0.28 * r > cy - top))
    scene.line(_surface(x[:14], y[:, :14], 0.02), _INK, 0.035)


def _brow(scene, looks, side, raise_):
    raise_ = np.clip(raise_, -0.6, 1.2)
    x = side * np.linspace(0.17, 0.53, 8)
    arch = np.sin(np.linspace(0.2, np.pi * 0.95, 8))
    y = -0.36 - 0.09 * raise_ - 0.05 * arch * (1 + 0.5 * raise_)
    scene.line(_surface(x, y), looks["hair"] * 0.7, looks["brow"] + 0.02)


def _nose(scene, looks):
    x, y = _ring(0, 0.22, looks["nose"], 0.07)
    scene.fill(_surface(x, y, 0.14), looks["skin"] * 0.9)
    ridge = np.array([[[0.02, -0.08, 0.74], [0.05, 0.08, 0.84], [0.035, 0.16, 0.9]]])
    scene.line(ridge, looks["skin"] * 0.84, 0.025)


def _mouth(scene, looks, a, jaw, smile):
    """Inner lips from aperture, width, smile; teeth above, tongue below, both clipped to the
    opening column by column."""
    half = 0.27 * (1 + 0.28 * a["lip_width"] - 0.25 * a["lip_protrusion"] + 0.22 * smile)
    gap = 0.30 * np.maximum(a["lip_aperture"], 0.0)
    press = np.maximum(-a["lip_aperture"], 0.0)
    u = np.linspace(-1, 1, 21)
    middle = 0.53 + 0.35 * jaw - 0.12 * smile * (u ** 2 - 0.4)
    shape = (1 - u ** 2) ** 0.7
    upper = middle - (0.4 * gap + 0.035 * a["upper_lip_raise"]) * shape
    lower = middle + (0.6 * gap + 0.035 * a["lower_lip_drop"]) * shape
    is_open = gap > 0.003
    meet = (upper + lower) / 2  # pressed lips meet, whatever pulls on them
    upper, lower = np.where(is_open, upper, meet), np.where(is_open, lower, meet)
    lower = np.maximum(lower, upper)
    x = half * u
    forward = 0.10 * a["lip_protrusion"]
    thick = (looks["lips"] * (1 + 0.45 * a["lip_protrusion"])
             * (1 - 0.6 * np.minimum(press, 0.5)) * (1 - 0.12 * smile))

    def between(top, bottom):
        return _surface(*_closed(x, top, bottom), 0.04 + forward)

    bow = (1 - np.abs(u) ** 3) * (1 - 0.25 * np.exp(-(u / 0.18) ** 2))
    colour = looks["skin"] * 0.62 + np.array([200, 70, 80]) * 0.36
    scene.fill(between(upper - thick * bow, upper + 0.004), colour * 0.95)
    scene.fill(between(lower - 0.004, lower + 1.25 * thick * (1 - np.abs(u) ** 3)), colour * 1.05)
    scene.fill(between(upper, lower), (78, 22, 30), where=is_open)
    raised = np.clip(0.35 + 0.5 * a["tongue_tip"] + 0.35 * a["tongue_body"], 0.05, 1.0)
    inside = 0.82
    arc = np.where(np.abs(u) < inside, _arc(u / inside), 0)
    tongue_top = lower - (lower - upper) * raised * arc
    scene.fill(between(np.maximum(tongue_top, upper), lower), (206, 96, 104), where=is_open)
    teeth = 0.06 * (1 + 0.8 * np.maximum(a["upper_lip_raise"], 0))
    teeth = np.minimum(teeth, 0.55 * (lower - upper)) * _arc(u / 0.92)
    scene.fill(between(upper, np.minimum(upper + teeth, lower)), (250, 248, 242), where=is_open)
    scene.line(_surface(x, upper, 0.05 + forward), colour * 0.55, 0.022, where=~is_open)


def _hair_front(scene, looks):
    w = looks["width"] + 0.05
    t = np.linspace(np.pi, 2 * np.pi, 28)
    fringe = np.linspace(w, -w, 28)
    side = np.abs(fringe / w)
    wave = np.sin(3.2 * fringe + 2 * looks["long"])
    line = -0.60 + 0.10 * side ** 2 + 0.06 * wave + 0.05 * looks["long"]
    line = line + (-0.05 - line) * side ** 10  # side burns
    x = np.concatenate([w * np.sign(np.cos(t)) * np.abs(np.cos(t)) ** 0.8, fringe])
    y = np.concatenate([-0.05 + (1.0 + 0.06 * (looks["long"] > -0.6)) * np.sin(t), line])
    front = 0.75 * np.sqrt(np.maximum(0.05, 1 - (fringe / 1.05) ** 2 - (line / 1.25) ** 2))
    z = np.concatenate([np.full(28, 0.1), front + (0.1 - front) * side ** 6])
    scene.fill(_points(x, y, z), looks["hair"])
