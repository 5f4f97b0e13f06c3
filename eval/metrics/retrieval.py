"""Face to voice: is the voice predicted from a portrait nearest to that person's own voice?

Queries are predicted speaker embeddings, the gallery the true ones, one an identity; similarity is
the cosine. A tie counts against the query. Chance is k / candidates. With `groups` (say, gender)
the candidates of a query are those of its own group alone, which a model that only tells the groups
apart cannot win (VoxCeleb-style same-gender negatives).
"""

import json
from collections.abc import Callable, Iterator

import numpy as np

from avjax.encoders.degrade import blur, rotate
from eval import pooling
from eval.registry import declare

RECIPE = {"implementation": "avjax eval.metrics.retrieval 1", "similarity": "cosine",
          "gallery": "one true embedding an identity: the mean over its recordings",
          "ties": "count against the query",
          "chance": "k / candidates, mean over queries"}
DEGRADATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "clean": lambda picture: picture,
    "blur_0.5": lambda picture: blur(picture, 0.5),
    "blur_1": lambda picture: blur(picture, 1.0),
    "blur_2": lambda picture: blur(picture, 2.0),
    "rotate_30": lambda picture: rotate(picture, 30.0),
    "rotate_-30": lambda picture: rotate(picture, -30.0),
}  # deviation in pixels, degrees; of (H, W, 3) uint8


def cosines(a_ND: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    """(N, M) float64."""
    a_ND, b_MD = (x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
                  for x in (np.asarray(a_ND, np.float64), np.asarray(b_MD, np.float64)))
    return a_ND @ b_MD.T


def by_identity(x_ND: np.ndarray, identities: list[str]) -> tuple[np.ndarray, list[str]]:
    """Means over the rows of each identity, in order of first appearance: (identities, D) and their
    names."""
    names = list(dict.fromkeys(identities))
    which = np.array([names.index(name) for name in identities])
    return np.stack([np.asarray(x_ND, np.float64)[which == i].mean(0)
                     for i in range(len(names))]), names


def ranks(predicted_ND: np.ndarray, true_ND: np.ndarray,
          groups: list | None = None) -> tuple[np.ndarray, np.ndarray]:
    """How many other candidates are at least as near as one's own, and how many candidates there
    are: (N,) int each. Row i of both arrays is the same identity."""
    if np.shape(predicted_ND) != np.shape(true_ND):
        raise ValueError(f"one prediction an identity: shapes {np.shape(predicted_ND)} and "
                         f"{np.shape(true_ND)} differ")
    similar_NN = cosines(predicted_ND, true_ND)
    allowed_NN = np.ones(similar_NN.shape,
                         bool) if groups is None else np.equal.outer(groups, groups)
    others_NN = allowed_NN & ~np.eye(len(similar_NN), dtype=bool)
    nearer_NN = (similar_NN >= np.diag(similar_NN)[:, None]) & others_NN
    return nearer_NN.sum(1), allowed_NN.sum(1)


def scores(predicted_ND: np.ndarray, true_ND: np.ndarray, at: tuple[int, ...] = (1, 5),
           groups: list | None = None) -> dict[str, float]:
    """{"R@k", "chance@k", "times_chance" (of R@1), "cosine", "mean_rank" (1 = best),
    "identities"}."""
    rank_N, candidates_N = ranks(predicted_ND, true_ND, groups)
    out = {"identities": len(rank_N)}
    for k in at:
        out[f"R@{k}"] = float((rank_N < k).mean())
        out[f"chance@{k}"] = float(np.minimum(k / candidates_N, 1).mean())
    out["times_chance"] = float((rank_N < 1).mean() / (1 / candidates_N).mean())
    out["mean_rank"] = float(rank_N.mean() + 1)
    out["cosine"] = float(np.diag(cosines(predicted_ND, true_ND)).mean())
    return out


def degraded(portraits_NHWC: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(name, portraits) for every degradation, the clean ones first. A face embedding is to be made
    again from each."""
    for name, apply in DEGRADATIONS.items():
        yield name, np.stack([apply(picture) for picture in portraits_NHWC])


def _score(case):
    made = case.signals.streams["voices"]
    example = case.benchmark.source(case.split)[case.index]
    return {"voices": {"names": json.loads(example["speakers"]), "made": made.round(5).tolist(),
                       "true": example["voices"].round(5).tolist()}}


def _scores(pool) -> tuple[dict[str, float], int] | None:
    """(`scores`, how many identities), over all speakers of the split."""
    found = pool.entries("voices")
    if not found:
        return None
    names = [name for f in found for name in f["names"]]
    made, true = (by_identity(np.concatenate([np.asarray(f[which]) for f in found]), names)[0]
                  for which in ("made", "true"))
    return scores(made, true), len(made)


@pooling.labelled("all identities of the split")
def _pooled(name, pool):
    found = pool.once(_scores)
    if found is None:
        return None
    values, identities = found
    return {"value": float(values[name.removeprefix("voice_")]), "n": identities}


for _name, _better, _meaning in (
        ("R@1", "up", "the face's voice is nearest to the true one"),
        ("R@5", "up", "the true voice is among the five nearest"),
        ("times_chance", "up", "R@1 as a multiple of guessing"),
        ("cosine", "up", "cosine of the face's voice and the true one"),
        ("mean_rank", "down", "mean place of the true voice, 1 is the nearest"),
        ("chance@1", "", "R@1 of guessing"), ("chance@5", "", "R@5 of guessing"),
        ("identities", "", "how many voices there are to choose from")):
    declare(f"voice_{_name}", _better, _meaning, family="retrieval", score=_score, pool=_pooled,
            recipe=lambda benchmark: RECIPE, needs=("voices",))
