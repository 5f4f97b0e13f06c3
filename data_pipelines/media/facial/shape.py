"""Where points of a head are that neither speech nor a smile moves: a mean of people.

Measured here: generalised Procrustes mean of the face-mesh network's own 3-D output over 8
recordings of talking people (1850 frames, each recording weighing the same), made symmetric;
people differ from it by 0.03 (standard deviation of a coordinate). Its pitch is 0 where these
people, on the average, look into the camera. Unit: the distance of the outer corners of the eyes,
whose middle is the origin; x to the picture's right, y down, z to the viewer.
"""

import dataclasses

import numpy as np

from avjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Shape:
    """Rigid points of a face whose landmarks are of one kind."""

    points: np.ndarray  # (R,) which of its landmarks they are
    xyz: np.ndarray  # (R, 3)
    mirror: np.ndarray  # (R,) of each its mirror image, itself on the middle line


def _shape(pairs: dict[tuple[int, int], tuple], middle: dict[int, tuple]) -> Shape:
    """Of pairs {(the picture's left, its right): position of the left} and points in the middle."""
    points = [point for pair in pairs for point in pair] + list(middle)
    xyz = [sign for position in pairs.values()
           for sign in (position, (-position[0], *position[1:]))] + list(middle.values())
    mirror = [k ^ 1 for k in range(2 * len(pairs))] + list(range(2 * len(pairs), len(points)))
    return Shape(np.array(points), np.array(xyz), np.array(mirror))


_OUTER, _INNER = (-0.500, 0.000, 0.000), (-0.192, 0.022, 0.062)  # corners of an eye
_TEMPLE, _TIP, _BELOW = (-0.756, 0.015, -0.537), (0, 0.364, 0.473), (0, 0.495, 0.277)
_OF = {
    468: _shape({(33, 263): _OUTER, (133, 362): _INNER, (127, 356): _TEMPLE,
                 (162, 389): (-0.752, -0.140, -0.422), (234, 454): (-0.741, 0.161, -0.593)},
                {168: (0, -0.048, 0.237), 6: (0, 0.049, 0.281), 197: (0, 0.128, 0.334),
                 195: (0, 0.198, 0.391), 4: _TIP, 2: _BELOW, 151: (0, -0.401, 0.242),
                 10: (0, -0.569, 0.211)}),
    # iBUG's 68, found on the same frames by dlib, lie there on the mesh (medians)
    68: _shape({(36, 45): _OUTER, (39, 42): _INNER, (0, 16): _TEMPLE},
               {27: (0, 0.000, 0.259), 28: (0, 0.128, 0.334), 29: (0, 0.235, 0.420), 30: _TIP,
                33: _BELOW}),
}


def rigid(count: int) -> Shape:
    """The rigid points of a face with `count` landmarks. Raises UserError: another count."""
    if count not in _OF:
        raise UserError("no known set of landmarks", where="points of a face",
                        expected=" or ".join(map(str, _OF)), found=str(count))
    return _OF[count]
