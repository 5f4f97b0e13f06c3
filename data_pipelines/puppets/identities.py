"""Who the puppets are: a vector of eight numbers in [-1, 1] decides both the drawn face and the
voice.

    number      voice                                     face
    0 size      lower pitch, longer vocal tract           wider head, larger jaw
    1 weight    lower pitch                               thicker brows, wider nose
    2 haste     speaking rate                             larger eyes
    3 cheer     pitch range                               fuller lips, more smile
    4 skin, 5 hair colour, 6 hair length: face only
    7 manner    vocal tract (a little)                    larger mouth movements, iris colour
All maps are smooth, so a voice can be learned from a face, and a speaker who is a mixture of known
ones is predictable.
"""

import numpy as np

WIDTH = 8
NAMES = ("ada", "ben", "cleo", "dan", "eve", "finn", "gia", "hugo", "ivy", "jack", "kira", "leo",
         "mona", "nils", "olga",
         "paul")
HELD_OUT = "zoe"


def held_out_names(count: int = 1) -> list[str]:
    """Of the speakers that no training hears: zoe, zoe2, zoe3, ..."""
    return [HELD_OUT + (str(i + 1) if i else "") for i in range(count)]


def identities(count: int = 9, seed: int = 0, held_out: int = 1) -> dict[str, np.ndarray]:
    """{name: (8,) float32} of `count` training speakers and, last, the held-out ones.

    The training speakers are spread out (greedy farthest points of a random cloud); each held-out
    one is a mixture of three of them, inside their hull.
    """
    rng = np.random.default_rng([seed, 8])
    cloud = rng.uniform(-0.9, 0.9, (2000, WIDTH))
    chosen = [cloud[0]]
    while len(chosen) < count:
        distance = np.min([np.linalg.norm(cloud - c, axis=1) for c in chosen], axis=0)
        chosen.append(cloud[np.argmax(distance)])
    names = [NAMES[i] if i < len(NAMES) else f"speaker{i}" for i in range(count)]
    out = dict(zip(names, chosen, strict=True))
    for name in held_out_names(held_out):
        parts = rng.permutation(count)[:3]
        out[name] = np.average(np.array(chosen)[parts], axis=0,
                               weights=[0.5, 0.3, 0.2][:len(parts)])
    return {name: v.astype(np.float32) for name, v in out.items()}
