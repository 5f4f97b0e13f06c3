"""68 points of a face by dlib's regression trees; the model comes in face_recognition_models.

The model (Kazemi and Sullivan 2014, in dlib's implementation) was trained on iBUG 300-W, whose
licence forbids commercial use; dlib is under the Boost licence. It always finds points, so it does
not tell a hidden face.
"""

import importlib.util
import pathlib

import numpy as np

KIND = {"kind": "dlib68", "points": 68, "model": "shape_predictor_68_face_landmarks, "
        "face_recognition_models"}
NEEDS = ("dlib", "face_recognition_models")
INSTALL = "pip install 'avjax[dlib68]'"
NOTE = "dlib68: its training data (iBUG 300-W) forbid commercial use of the model"


class Finder:
    """Finds the points of one face in a picture, given where it is."""

    def __init__(self):
        import dlib

        [folder] = importlib.util.find_spec("face_recognition_models").submodule_search_locations
        path = pathlib.Path(folder, "models", "shape_predictor_68_face_landmarks.dat")
        self._predict, self._box = dlib.shape_predictor(str(path)), dlib.rectangle

    def __call__(self, image: np.ndarray, x: float, y: float, width: float,
                 roll: float) -> tuple[np.ndarray, float]:
        """As mesh468.Finder; certain always."""
        left, top = round(x - width / 2), round(y - width / 2)
        found = self._predict(image, self._box(left, top, round(x + width / 2),
                                               round(y + width / 2)))
        return np.array([(p.x, p.y) for p in found.parts()], np.float32), 1.0
