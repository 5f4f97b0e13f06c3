"""Points of a face, frame by frame: found in pictures, or given by a corpus."""

import numpy as np

WHOLEBODY = slice(23, 91)  # the face's 68 points among the 133 of COCO-WholeBody


def of_wholebody(keypoints_N1333) -> tuple[np.ndarray, np.ndarray]:
    """(N, 68, 2) float32 points in pixels and (N, 68) float32 scores, of COCO-WholeBody's 133
    keypoints (x, y, score), as Seamless Interaction gives them."""
    face_N683 = np.asarray(keypoints_N1333, np.float32)[:, WHOLEBODY]
    return face_N683[..., :2], face_N683[..., 2]
