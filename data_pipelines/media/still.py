"""A picture file as one sees it: upright, with square pixels, without the colours that transparency
hides."""

import io

import numpy as np
from PIL import Image, ImageOps

from data_pipelines.media.video import over_background

_UNEQUAL = (1.01, 4.0)  # of the resolutions across and down: less is rounding, more a broken header


def read(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8 RGB from the bytes of a picture file. Raises ValueError for whatever is no
    whole picture."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return (
                over_background(
                    np.asarray(_eight_bits(ImageOps.exif_transpose(_squared(image))).convert(
                        "RGBA"))))
    except Exception as error:  # Pillow's readers raise what they come across, of any type
        raise ValueError(str(error) or type(error).__name__) from error


def _squared(image):
    """Enlarged in the direction of the lower resolution, where a file gives two."""
    across, down = (image.info.get("aspect") or image.info.get("dpi")
                    or image.info.get("jfif_density") or (1, 1))
    if not (across > 0 and down > 0
            and _UNEQUAL[0] <= max(across / down, down / across) <= _UNEQUAL[1]):
        return image
    most, orientation = max(across, down), image.getexif().get(0x0112)
    size = round(image.width * most / across), round(image.height * most / down)
    image = _eight_bits(image)
    colours = "RGBA" if image.has_transparency_data else "RGB"
    out = image.convert(colours).resize(size, Image.Resampling.BICUBIC)
    if orientation:
        out.getexif()[0x0112] = orientation
    return out


def _eight_bits(image):
    """Greys of 16 bits, integers and floats as eight bits: Pillow would cut off what is above
    255."""
    if image.mode[0] not in "IF":
        return image
    x = np.asarray(image, np.float64)
    sixteen = "16" in image.mode or image.mode == "I" and x.max() > 255
    most = 65535 if sixteen else 1 if image.mode == "F" and x.max() <= 1 else 255
    return Image.fromarray(np.clip(np.round(x * (255 / most)), 0, 255).astype(np.uint8))
