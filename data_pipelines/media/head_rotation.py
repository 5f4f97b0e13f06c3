"""Rotations of heads: one convention, what other conventions are in it, and the perspective fit that
finds them from points of a face.

The convention, that of the column `pose`: identity looks into the camera; yaw > 0 turns the nose to
the picture's right, pitch > 0 looks down, roll > 0 tilts clockwise in the picture; angles are taken
roll after pitch after yaw. A quaternion wxyz holds the rotation in a frame of x right, y up, z to
the viewer, with z's sign turned, so that all three count as said.
"""


import numpy as np
from scipy.spatial.transform import Rotation

from avjax.errors import UserError

# frames of others -> signs of a rotation vector's components here
AXES = {"y up, z near": (1, 1, -1),  # OpenGL, FLAME (SMIRK, DECA, EMOCA), Deep3DFaceRecon
        "y down, z away": (1, -1, 1)}  # OpenCV: a camera's own frame
RECIPE = {"kind": "perspective fit 1", "rotation": "full: yaw to the picture's right, pitch down, "
          "roll clockwise", "focal": 1.2, "shape": "mean of people, adapted to the track",
          "smoothing_s": 0.04}


def matrix(q) -> np.ndarray:
    """(..., 3, 3) of quaternions wxyz (..., 4), for columns of head coordinates: x to the picture's
    right, y down, z to the viewer."""
    q = np.asarray(q, np.float64)
    w, x, y, z = np.moveaxis(q / np.maximum(np.linalg.norm(q, axis=-1, keepdims=True), 1e-9), -1, 0)
    x = -x  # y points down here: about x, positive turns bring the front towards +y
    rows = [[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def of_rotation_vector(vectors_N3, axes: str = "y up, z near") -> np.ndarray:
    """(N, 4) float32 of axis-angle vectors in radians, as FLAME, SMPL and OpenCV write rotations."""
    return _quaternions(Rotation.from_rotvec(np.asarray(vectors_N3, np.float64)), axes)


def of_euler(angles_N3, order: str, axes: str = "y up, z near") -> np.ndarray:
    """(N, 4) float32 of Euler angles in radians.

    Args:
      angles_N3: in the order of `order`.
      order: of scipy's Rotation.from_euler: "xyz" turns about x first, each about fixed axes; "XYZ"
        about the axes that turned.
      axes: a key of AXES.
    """
    return _quaternions(Rotation.from_euler(order, np.asarray(angles_N3, np.float64)), axes)


def of_matrix(matrices_N33, axes: str = "y up, z near") -> np.ndarray:
    """(N, 4) float32 of rotation matrices that turn column vectors of the head into the camera's
    frame."""
    return _quaternions(Rotation.from_matrix(np.asarray(matrices_N33, np.float64)), axes)


def angles(q_N4) -> np.ndarray:
    """(N, 3) degrees: yaw, pitch, roll."""
    r = matrix(q_N4)
    yaw, roll = np.arctan2(-r[..., 2, 0], r[..., 2, 2]), np.arctan2(-r[..., 0, 1], r[..., 1, 1])
    pitch = np.arcsin(np.clip(-r[..., 2, 1], -1, 1))
    return np.degrees(np.stack([yaw, pitch, roll], -1))


def _quaternions(rotation: Rotation, axes: str) -> np.ndarray:
    if axes not in AXES:
        raise UserError("unknown axes", where="axes of a rotation", expected=" or ".join(AXES),
                        found=repr(axes))
    wxyz = np.roll(rotation.as_quat(canonical=True), 1, axis=-1)
    return (wxyz * (1, *AXES[axes])).astype(np.float32)
