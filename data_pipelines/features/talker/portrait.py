"""The portrait that a generated motion of LIA-X is drawn on."""

import cv2
import numpy as np

from avjax.codecs.lia_x.codec import SIZE
from avjax.errors import UserError
from data_pipelines.features.common import portraits
from data_pipelines.prompting import Input

TAKES = (Input("portrait", "Square picture of a face, which is made to speak: of a model whose "
                           "motion is LIA-X's."),
         Input("face_codec", "LIA-X's published weights, to draw on the portrait and to read "
                             "films; default WORKDIR/lia_x."),
         Input("face", f"\"{portraits.UNCHECKED}\" takes the portrait or film as it is, whether a "
                       "face is found in it or not."))


def read(request, task: str, decoder, front,
         film: np.ndarray | None) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """{"portrait": (1, 512, 512, 3) uint8} and its own motion (40,), z-scored. Without --portrait
    the first picture of a `film` that LIA-X reads, whose motion is known; else ({}, None).

    Raises UserError: no picture, not square, no face or several, motion that is not LIA-X's, a
    task without motion, other weights.
    """
    if request.face not in ("", portraits.UNCHECKED):
        raise UserError("unknown way to take a portrait", where="--face", found=request.face,
                        expected=portraits.UNCHECKED)
    if not request.portrait:
        for name in ("face_codec", "face"):
            if getattr(request, name) and not request.video:
                raise UserError(f"--{name} without --portrait", where=f"--{name}",
                                hint="--portrait=FACE.png is what it is for")
        return {} if film is None else {"portrait": film}, None
    where = f"--portrait={request.portrait}"
    if task == "tts":
        raise UserError("tts moves no face", where=where, hint="--task=t2av, or no portrait")
    decoder.family.draw_with(request.face_codec)
    picture = portraits.read(request.portrait)
    height, width = picture.shape[:2]
    if height != width:
        raise UserError("the portrait is not square", where=where, found=f"{width} x {height}",
                        expected=f"as wide as high, {SIZE} x {SIZE} at best",
                        hint="crop it to the head and shoulders")
    if request.face != portraits.UNCHECKED:
        kind = decoder.recipes["motion"].get("pictures", {}).get("kind", "recorded")
        portraits.check(picture, kind, where)
    if height != SIZE:
        picture = cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    streams = {"portrait": picture[None]}
    own_M = decoder.family.portrait(streams["portrait"]).motion_M
    return streams, front.motion_codec.encode(own_M[None])[0]
