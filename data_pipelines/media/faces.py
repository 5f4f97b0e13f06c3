"""One face through a recording: detection, a smooth track, upright square crops, and a head pose
read off the track.

Detection is OpenCV's frontal Haar cascade (it comes with the wheel; no weights to fetch) on every
few frames; between them the head's similarity transform (shift, scale, roll) follows from optical
flow of points on the upper face, which speech hardly moves. Detections say where the face is, flow
says how it moves: the track is the flow's path plus its slowly varying distance to the detections.

The pose is box-based: translation in face widths and roll about the camera's axis. Yaw and pitch
it knows only where landmarks tell them (landmarks.py, head_rotation.py); else they stay in the crop
and so in the face codes.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from scipy import ndimage

from avjax.errors import UserError

EVERY = 5  # frames between detections
MARGIN = 1.5  # side of the crop, in face widths
LOWER = 0.06  # of the crop's middle below the face's, in sides of the crop
SECOND = 0.35  # width of another face that counts, in widths of the main one
SHRINK = 640  # longest side of the picture that is searched, pixels
RECIPE = {"kind": "box", "detector": "haarcascade_frontalface_alt2",
          "axes": "x right, y up, z away (log scale)", "unit": "median face width",
          "rotation": "roll about the camera's axis, clockwise in the picture",
          "origin": "the recording's mean", "rate": 30.0}


class FaceError(UserError):
    """A recording without one clear face. `reason` is one of "no face", "two faces", "camera cut",
    "face too small", or a key of facial/filters.REASONS."""

    def __init__(self, reason: str, **details):
        self.reason, self._details = reason, details
        super().__init__(reason, **details)


@contextlib.contextmanager
def read_from(path) -> Iterator[None]:
    """A FaceError inside names the file that the pictures come from."""
    try:
        yield
    except FaceError as error:
        raise FaceError(error.reason, **{"where": str(path)} | error._details) from error


@dataclasses.dataclass(frozen=True)
class Track:
    """A head over N frames. Positions are fractions of the picture's width, so they hold at any
    resolution."""

    centre: np.ndarray  # (N, 2) x, y
    width: np.ndarray  # (N,) of the face
    roll: np.ndarray  # (N,) radians, clockwise in the picture, relative to the recording's mean
    second: np.ndarray | None = None  # (N,) bool: another face is seen, too

    def turned(self, q_N4: np.ndarray) -> "Track":
        """The same track, with the roll of full rotations (head_rotation.py): their part about the
        camera's axis, by which `compose` turns crops back."""
        return dataclasses.replace(self, roll=2 * np.arctan2(q_N4[:, 3], q_N4[:, 0]))

    def pose(self, q_N4: np.ndarray | None = None) -> np.ndarray:
        """(N, 7) float32: quaternion wxyz (`q_N4`; without, roll only), translation in face widths
        (x right, y up, z away)."""
        reference = np.median(self.width)
        shift = (self.centre - self.centre.mean(0)) / reference
        half, zero = self.roll / 2, np.zeros_like(self.roll)
        turn = [np.cos(half), zero, zero, np.sin(half)] if q_N4 is None else np.transpose(q_N4)
        columns = [*turn, shift[:, 0], -shift[:, 1], np.log(reference / self.width)]
        return np.stack(columns, 1).astype(np.float32)


def detector():
    """The cascade as a function: (H, W) uint8 grey -> list of (x, y, w, h) in pixels."""
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_alt2.xml")

    def detect(grey):
        smallest = max(24, min(grey.shape) // 10)
        return [tuple(map(float, box)) for box in
                cascade.detectMultiScale(cv2.equalizeHist(grey), 1.1, 5,
                                         minSize=(smallest, smallest))]

    return detect


def follow(frames: Iterable[np.ndarray], fps: float = 30.0, detect=None) -> Track:
    """The single face of a recording, from its upright RGB frames (shrink them to SHRINK first).

    Raises FaceError: no face in half of the looked-at frames; a second one beside it in a fifth of
    them; a cut between cameras, across which nothing can be tracked.
    """
    detect = detect or detector()
    found, steps, previous, box, width = [], [], None, None, 1
    for k, image in enumerate(frames):
        grey, width = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), image.shape[1]
        if previous is not None and _is_cut(previous, grey):
            raise FaceError("camera cut", expected="one continuous shot",
                            found=f"a cut at {k / fps:.2f} s",
                            hint="cut the recording there into separate files")
        steps.append(_step(previous, grey, box))
        if box is not None:
            box = _moved(box, steps[-1])
        if k % EVERY == 0:
            boxes = detect(grey)
            found.append(boxes)
            if boxes:
                box = (max(boxes, key=lambda b: b[2]) if box is None
                       else min(boxes, key=lambda b: _far(b, box)))
        previous = grey
    if not steps:
        raise FaceError("no face", expected="frames", found="none")
    boxes, crowded = _choose(found)
    return _fuse(boxes, crowded, np.array(steps), fps, width)


def _is_cut(before, after) -> bool:
    a, b = (cv2.resize(g, (32, 32), interpolation=cv2.INTER_AREA).ravel().astype(np.float32)
            for g in (before, after))
    contrast = (a.std() + b.std()) / 2 + 1.0
    return bool(np.abs(a - b).mean() > 0.5 * contrast and np.corrcoef(a, b)[0, 1] < 0.5)


def _step(before, after, box) -> tuple[float, float, float, float]:
    """How the head moved since the last frame: (dx, dy) pixels of the box's centre, d log scale, d
    roll."""
    still = (0.0, 0.0, 0.0, 0.0)
    if before is None or box is None:
        return still
    x, y, w, h = box
    height, width = before.shape
    # only the head's surroundings are searched
    left, top = max(0, int(x - 0.2 * w)), max(0, int(y - 0.2 * h))
    part = np.s_[top : min(height, int(y + 1.2 * h)), left : min(width, int(x + 1.2 * w))]
    before, after, x, y = before[part], after[part], x - left, y - top
    if min(before.shape) < 32:
        return still
    mask = np.zeros_like(before)
    mask[max(0, int(y + 0.12 * h)) : int(y + 0.68 * h),
         max(0, int(x + 0.15 * w)) : int(x + 0.85 * w)] = 255
    points = cv2.goodFeaturesToTrack(before, 80, 0.01, max(3, w / 25), mask=mask)
    if points is None or len(points) < 8:
        return still
    moved, ok, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None, winSize=(21, 21),
                                            maxLevel=3)
    ok = ok.ravel() == 1
    if ok.sum() < 8:
        return still
    matrix, _ = cv2.estimateAffinePartial2D(points[ok], moved[ok], method=cv2.RANSAC,
                                            ransacReprojThreshold=1.0)
    if matrix is None:
        return still
    scale, roll = np.hypot(matrix[0, 0], matrix[1, 0]), np.arctan2(matrix[1, 0], matrix[0, 0])
    if not 0.85 < scale < 1.18 or abs(roll) > 0.3:
        return still
    centre = np.array([x + w / 2, y + h / 2])
    shift = matrix[:, :2] @ centre + matrix[:, 2] - centre
    return (float(shift[0]), float(shift[1]), float(np.log(scale)), float(roll))


def _moved(box, step):
    x, y, w, h = box
    grow = np.exp(step[2])
    cx, cy = x + w / 2 + step[0], y + h / 2 + step[1]
    return (cx - w * grow / 2, cy - h * grow / 2, w * grow, h * grow)


def _far(a, b) -> float:
    """Distance of two boxes: of the centres in widths, plus how much the widths differ."""
    gap = np.hypot(a[0] + a[2] / 2 - b[0] - b[2] / 2,
                   a[1] + a[3] / 2 - b[1] - b[3] / 2) / max(a[2], b[2])
    return gap + abs(np.log(a[2] / b[2]))


def _choose(found: list[list[tuple]]) -> tuple[list[tuple | None], set[int]]:
    """Detections per look -> the main face's box per look (None where unseen), looks with a second
    face. Raises FaceError.

    Boxes are linked into chains first: a chance detection in one look is no second person.
    """
    chains: list[dict[int, tuple]] = []
    for k, boxes in enumerate(found):
        for box in sorted(boxes, key=lambda b: -b[2]):
            near = [c for c in chains if k not in c and _far(box, c[max(c)]) < 0.6]
            if near:
                min(near, key=lambda c: _far(box, c[max(c)]))[k] = box
            else:
                chains.append({k: box})
    looks = len(found)
    chains.sort(key=lambda chain: -sum(box[2] for box in chain.values()))
    main = dict(chains[0]) if chains else {}
    size = np.median([b[2] for b in main.values()]) if main else 0
    crowded: set[int] = set()
    for chain in chains[1:]:
        if len(chain) < 3:
            continue
        together = chain.keys() & main.keys()
        if not together:  # a turned head or a zoom broke the chain: join its parts
            near, k = min((abs(i - j), (i, j)) for i in chain for j in main)[1]
            main = {**main, **chain} if _far(chain[near], main[k]) < 1.5 else main
        elif np.median([b[2] for b in chain.values()]) > SECOND * size:
            crowded |= together
            if len(together) < 0.2 * looks:
                continue
            raise FaceError("two faces", expected="one face",
                            found=f"a second in {len(together)} of {looks} looks",
                            hint="crop the video to one person")
    if len(main) < max(1, 0.5 * looks):
        raise FaceError("no face", expected="a frontal face in half of the frames",
                        found=f"in {len(main)} of {looks} looks",
                        hint="check framing, light and orientation")
    return [main.get(k) for k in range(looks)], crowded


def _fuse(boxes, crowded, steps_N4, fps, picture_width) -> Track:
    count = len(steps_N4)
    seen = [k for k, box in enumerate(boxes) if box is not None]
    chosen = np.array([boxes[k] for k in seen])
    measured = np.stack([chosen[:, 0] + chosen[:, 2] / 2, chosen[:, 1] + chosen[:, 3] / 2,
                         np.log(chosen[:, 2])], 1)
    path_N3, at = np.cumsum(steps_N4[:, :3], 0), np.array(seen) * EVERY
    distance = ndimage.median_filter(measured - path_N3[at], size=(min(5, len(seen)), 1),
                                     mode="nearest")
    distance_N3 = np.stack([np.interp(np.arange(count), at, column) for column in distance.T], 1)
    track_N3 = path_N3 + ndimage.gaussian_filter1d(distance_N3, 0.5 * fps, axis=0, mode="nearest")
    roll_N = np.cumsum(steps_N4[:, 3])
    if count > 2:  # errors of the steps add up to a drift, which detections cannot correct
        roll_N = roll_N - np.polyval(np.polyfit(np.arange(count), roll_N, 1), np.arange(count))
    track_N4 = np.concatenate([track_N3, roll_N[:, None]], 1)
    smooth = ndimage.gaussian_filter1d(track_N4, 0.04 * fps, axis=0, mode="nearest")
    second = np.isin(np.arange(count) // EVERY, sorted(crowded))
    return Track(smooth[:, :2] / picture_width, np.exp(smooth[:, 2]) / picture_width, smooth[:, 3],
                 second)


class Cropper:
    """Cuts the head of frame k out of pictures of any size: upright, `size` pixels square, the face
    always as wide.

    Raises FaceError("face too small") when the crop would be enlarged more than `enlarged` times.
    """

    def __init__(self, track: Track, size: int = 96, fps: float = 30.0, enlarged: float = 2.0):
        self.track, self.size, self.enlarged = track, size, enlarged
        smooth = ndimage.gaussian_filter1d(np.log(track.width), fps, mode="nearest")
        self.side = MARGIN * np.exp(smooth)
        # in the picture, in its widths; so low that an open jaw stays inside
        self.middle = track.centre + np.stack([0 * self.side, LOWER * self.side], 1)

    def squares(self, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Middles (N, 2) and sides (N,) in pixels of pictures so wide, and roll (N,), of what the
        crops show."""
        return self.middle * width, self.side * width, self.track.roll

    def large(self, width: int) -> np.ndarray:
        """(N,) whether the crop is not enlarged too much, out of pictures so wide."""
        return self.side * width >= self.size / self.enlarged

    def place(self, points_NK2: np.ndarray) -> np.ndarray:
        """(N, K, 2) float32: points of the pictures, in picture widths, as fractions of the crop's
        side."""
        cosine, sine = np.cos(self.track.roll), np.sin(self.track.roll)
        turn = np.stack([np.stack([cosine, sine], -1), np.stack([-sine, cosine], -1)], -2)
        off = (points_NK2 - self.middle[:, None]) / self.side[:, None, None]
        return (off @ np.swapaxes(turn, 1, 2) + 0.5).astype(np.float32)

    def __call__(self, k: int, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 picture of frame k -> (size, size, 3)."""
        size = self.size
        width = image.shape[1]
        side, middle, roll = self.side[k] * width, self.middle[k] * width, self.track.roll[k]
        if side < size / self.enlarged:
            least = size / self.enlarged / MARGIN
            raise FaceError("face too small", expected=f">= {least:.0f} pixels wide",
                            found=f"{side / MARGIN:.0f}",
                            hint="record closer or at a higher resolution")
        # averages pixels first: interpolation alone would alias
        shrink = min(1.0, 1.5 * size / side)
        if shrink < 1:
            image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        scale = size / (side * shrink)
        turn = scale * np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
        matrix = np.concatenate([turn, (size / 2 - turn @ (middle * shrink))[:, None]], 1)
        return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR,
                              borderMode=cv2.BORDER_REPLICATE)


def compose(crops: np.ndarray, pose: np.ndarray, size: int = 256) -> np.ndarray:
    """Moves upright crops as the pose says: (N, h, h, 3) uint8 and (N, 7) -> (N, size, size, 3).
    The inverse of cropping, up to the background, which is the crop's border drawn out."""
    out = np.empty((len(crops), size, size, 3), np.uint8)
    for k, crop in enumerate(crops):
        roll = 2 * np.arctan2(pose[k, 3], pose[k, 0])
        scale = size / crop.shape[0] * float(np.exp(np.clip(-pose[k, 6], -0.5, 0.5)))
        turn = scale * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        middle = size / 2 + np.array([pose[k, 4], -pose[k, 5]]) * size / MARGIN
        matrix = np.concatenate([turn, (middle - turn @ np.full(2, crop.shape[0] / 2))[:, None]], 1)
        cv2.warpAffine(crop, matrix, (size, size), dst=out[k], flags=cv2.INTER_CUBIC,
                       borderMode=cv2.BORDER_REPLICATE)
    return out
