"""A portrait as the model knows portraits: exactly one face is found in it, and it is cut out the
way the corpus frames faces.

What a face is depends on the pictures that the model was trained on (`kind` of the recipe
"portraits"): OpenCV's cascade finds photographed faces ("recorded", "eigenface"); it sees none in
the drawn "puppet", which is found by its eyes. In pictures of less than SEARCHABLE pixels neither
is reliable: they are taken as they are if they have exactly the training pictures' size.
"""

import pathlib
from collections.abc import Mapping

import cv2
import numpy as np

from avjax.errors import UserError
from data_pipelines.media import faces, still

UNCHECKED = "unchecked"
PUPPET = "puppet"
# Proportions of a drawn face (puppets/render.py), in distances between its eyes: side of the box
# around the head, and how far the box's centre lies below the eyes. Side of a zoom-1 picture in
# sides of that box.
_HEAD, _BELOW, _PICTURE = 2.08, 0.19, 1.89
SEARCHABLE = 192  # least side of a picture that faces are looked for in, pixels
_SEARCHED = 384  # longest side of the picture that puppets' eyes are searched in, pixels
_OTHER = 0.35  # a second face counts from this share of the first one's width; less is chance
# a portrait that is framed as in training up to this share of its side is not cut anew
_FRAMED = 0.06

Box = tuple[float, float, float, float]  # left, top, width, height in pixels


def read(path) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a picture file (see `still`). UserError when there is none or it
    cannot be read."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError("no such portrait", where=str(path), expected="a picture: png, jpg, ...",
                        found="no file")
    try:
        return still.read(path.read_bytes())
    except ValueError:
        raise UserError("unreadable portrait", where=str(path), expected="a picture: png, jpg, ...",
                        found="something else, or a damaged file") from None


def find(picture: np.ndarray, kind: str) -> list[Box]:
    """The faces of a picture (H, W, 3) uint8, the largest first; see above for `kind`."""
    boxes = _puppets(picture) if kind == PUPPET else _photographed(picture)
    boxes = sorted(boxes, key=lambda b: -b[2])
    return [b for b in boxes if b[2] > _OTHER * boxes[0][2]]


def check(picture: np.ndarray, kind: str, where: str) -> Box:
    """The one face. UserError when there is none, or more than one."""
    found = find(picture, kind)
    drawn = " (this model knows drawn faces of its own corpus)" if kind == PUPPET else ""
    if not found:
        raise UserError(f"a portrait without a face{drawn}", where=where,
                        expected="one face, from the front", found="none",
                        hint=f"give another picture, or --face={UNCHECKED} to take it as it is")
    if len(found) > 1:
        raise UserError("a portrait with several faces", where=where, expected="one face",
                        found=str(len(found)),
                        hint="crop the picture to one person")
    return found[0]


def prepared(picture: np.ndarray, recipe: Mapping, where: str, *,
             checked: bool = True) -> np.ndarray:
    """(size, size, 3) uint8: the face as the corpus frames it.

    Args:
      picture: (H, W, 3) uint8 RGB.
      recipe: of "portraits": kind, size, and the zoom of puppets.
      where: what to call the picture in errors.
      checked: False takes the middle square as it is, whatever it shows.

    Raises UserError: no face, several faces, a face of less than half the pixels, a picture too
    small to find one in.
    """
    height, width = picture.shape[:2]
    size, side = recipe["size"], float(min(height, width))
    middle = (width / 2, height / 2)
    if checked and side < SEARCHABLE:
        if (height, width) != (size, size):
            raise UserError("portrait too small", where=where,
                            expected=f"{SEARCHABLE} x {SEARCHABLE} pixels or more",
                            found=f"{width} x {height}",
                            hint=f"use a larger picture, or --face={UNCHECKED}")
        checked = False
    if checked:
        x, y, w, h = check(picture, recipe["kind"], where)
        wanted = w * (_PICTURE / recipe.get("zoom", 1.0) if recipe["kind"] == PUPPET
                      else faces.MARGIN)
        at = (x + w / 2, y + h / 2)
        apart = max(abs(wanted - side), 2 * abs(at[0] - middle[0]), 2 * abs(at[1] - middle[1]),
                    float(abs(height - width)))
        if apart > _FRAMED * wanted:
            side, middle = wanted, at
    if side < size / 2:
        raise UserError("face too small", where=where,
                        expected=f"a portrait of {size} pixels or more", found=f"{side:.0f}",
                        hint="use a larger picture")
    scale = size / side
    picture = cv2.resize(picture, (round(width * scale), round(height * scale)),
                         interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return cv2.getRectSubPix(picture, (size, size),
                             (middle[0] * scale - 0.5, middle[1] * scale - 0.5))


def _photographed(picture: np.ndarray) -> list[Box]:
    scale = min(1.0, faces.SHRINK / max(picture.shape[:2]))
    small = cv2.resize(picture, None, fx=scale, fy=scale,
                       interpolation=cv2.INTER_AREA) if scale < 1 else picture
    return [tuple(v / scale for v in box)
            for box in faces.detector()(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))]


def _puppets(picture: np.ndarray) -> list[Box]:
    """Pairs of eyes: two white ovals beside each other, as large as one another, with something
    dark in their middle."""
    scale = _SEARCHED / max(picture.shape[:2])
    image = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1
                       else cv2.INTER_CUBIC)
    eyes = _eyes(image)
    out, taken = [], set()
    for i, (x, y, w) in enumerate(eyes):  # from the left
        for j in range(i + 1, len(eyes)):
            x2, y2, w2 = eyes[j]
            apart, mean = np.hypot(x2 - x, y2 - y), (w + w2) / 2
            if taken & {i, j} or abs(y2 - y) > 0.5 * apart or not 1.4 * mean < apart < 3.2 * mean:
                continue
            taken |= {i, j}
            side, centre = _HEAD * apart, ((x + x2) / 2, (y + y2) / 2 + _BELOW * apart)
            out.append(tuple(v / scale for v in (centre[0] - side / 2, centre[1] - side / 2, side,
                                                 side)))
            break
    return out


def _eyes(image: np.ndarray) -> list[tuple[float, float, float]]:
    """(x, y, width) of white ovals around something dark, from the left; pixels."""
    low = image.min(-1)
    white = ((low > 190) & (image.max(-1) - low < 14)).astype(np.uint8)
    count, labels, stats, centres = cv2.connectedComponentsWithStats(white, connectivity=8)
    out = []
    for k in range(1, count):
        x, y, w, h, area = stats[k]
        square = 0.5 < w / max(h, 1) < 2.5
        if not 6 <= w <= 0.3 * image.shape[1] or not square or area > 0.9 * w * h:
            continue
        inside = labels[y:y + h, x:x + w] == k
        core = image[y + h // 4:y + h - h // 4, x + w // 4:x + w - w // 4]
        if core.size and core.min() < 70 and inside.any():
            out.append((x + w / 2, y + h / 2, float(w)))
    return sorted(out)
