"""Is a face's voice that of one speaker, whoever it is? The Speaker Mapper on speakers whose voices
it has learned ("seen") beside speakers that no training heard ("unseen"), and on several pictures
of one speaker, which should all sound alike.

A speaker is seen where the name is one of the training split's. Places among candidates of two
groups compare only among as many of them: R@k is the mean over DRAWS galleries of as many speakers
as the smallest group has. The pictures are the portrait and PICTURES frames of the speaker's film,
as its latents decode; the portrait's place is what R@k counts. Cosines of pictures of one speaker
("same") and of two ("other") are of voices that are made; those of recordings, the ceiling, are
given beside them. Pictures, galleries and groups are ours by choice. Suffixes: N speakers, P
pictures, V voice.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from eval import pooling
from eval.metrics import retrieval
from eval.robustness.kept import Kept, Row
from eval.robustness.subject import Person, Subject

NAME = "speakers"
PICTURES, DRAWS = 4, 200
SEEN, UNSEEN = "seen", "unseen"
RECIPE = {"implementation": "avjax eval.robustness.speakers 1", "pictures": PICTURES,
          "galleries": DRAWS, "seen": "who speaks in the training split", "ties": "count against"}
COLUMNS = {"R@1": "own voice nearest, among as many candidates in every group",
           "R@5": "among the five nearest", "place": "mean place, among as many candidates",
           "cosine": "of the portrait's voice and the speaker's own",
           "same": "cosine of the voices of two pictures of one speaker",
           "other": "of two speakers",
           "EER": "share of errors of telling same from other by that cosine, where both are equal",
           "recorded same": "cosine of two recordings of one speaker, as the features have them",
           "recorded EER": "the same of recordings"}


def run(subject: Subject, splits: Sequence[str], kept: Kept) -> dict:
    """{"tables": {title: {group: {column: entry}}}, "speakers": {group: {speaker: numbers}}}; rows
    are kept. UserError: see `Subject`."""
    made: dict[str, dict[str, tuple[Person, dict]]] = {SEEN: {}, UNSEEN: {}}
    known = subject.known()
    for split in splits:
        people = subject.people(split)
        films = _films(subject, split)
        with kept.bar(len(people), f"speakers {split}") as bar:
            for person in people:
                make = functools.partial(_row, subject, films, person)
                _, arrays = kept.of(make, NAME, split, person.name)
                group = made[SEEN if person.name in known else UNSEEN]
                group.setdefault(person.name, (person, arrays))
                bar.update()
    groups = {name: list(of.values()) for name, of in made.items() if of}
    least = min(map(len, groups.values()))
    found = {name: _group(of, least) for name, of in groups.items()}
    return {"tables": {f"{least} candidates, of {', '.join(splits)}":
                       {name: table for name, (table, _) in found.items()}},
            "candidates": least, "speakers": {name: one for name, (_, one) in found.items()}}


def _films(subject: Subject, split: str):
    return (subject.source(split, ("id", "latents"))
            if subject.embeds and "latents" in subject.dataset.features else ())


def _row(subject: Subject, films, person: Person) -> Row:
    """"portrait" (V,) and "pictures" (P, V): voices of the portrait and of what the film shows."""
    seen = pictures_of(subject, films, person)
    own = subject.voices(person.portrait[None], person.face[None])[0]
    return {}, {"portrait": own, "pictures": subject.voices(seen) if len(seen) else own[None][:0]}


def pictures_of(subject: Subject, films, person: Person) -> np.ndarray:
    """(P, H, W, 3) uint8, spread over the first recording that was filmed; none where none was."""
    for index, place in person.at if films else ():
        latents = films[index]["latents"]
        if len(latents):
            at = np.linspace(0, len(latents) - 1, PICTURES + 2).round().astype(int)[1:-1]
            return subject.decoder.frames({"latents": latents[at, place]})
    return person.portrait[None][:0]


def _group(of: Sequence[tuple[Person, Mapping]], candidates: int) -> tuple[dict, dict]:
    true_NV = np.stack([person.voice for person, _ in of])
    made_NV = np.stack([np.asarray(row["portrait"], np.float64) for _, row in of])
    similar_NN = retrieval.cosines(made_NV, true_NV)
    own_N, place_N = np.diag(similar_NN), places(similar_NN, candidates)
    same_N, same, other = alike([np.concatenate([row["portrait"][None], row["pictures"]])
                                 for _, row in of])
    recorded_N, *recorded = alike([person.recorded for person, _ in of])
    one_N = {"R@1": (place_N <= 1).mean(0), "R@5": (place_N <= 5).mean(0), "place": place_N.mean(0),
             "cosine": own_N, "same": same_N, "recorded same": recorded_N}
    out = {column: pooling.interval(x[np.isfinite(x)], pooling.mean) if np.isfinite(x).any()
           else None for column, x in one_N.items()}
    out |= {"other": _number(other.mean() if len(other) else np.nan, len(of)),
            "EER": _number(equal_error(same, other), len(of)),
            "recorded EER": _number(equal_error(*recorded), len(of))}
    whole_N = (similar_NN >= own_N[:, None]).sum(1)
    nearest = [of[k][0].name for k in similar_NN.argmax(1)]
    return ({c: out[c] for c in COLUMNS},
            {person.name: {"place": int(whole_N[n]), "of": len(of), "cosine": float(own_N[n]),
                           "same": float(same_N[n]), "nearest": nearest[n]}
             for n, (person, _) in enumerate(of)})


def _number(value: float, n: int) -> dict:
    return {"value": float(value), "n": n}


def places(similar_NN: np.ndarray, candidates: int) -> np.ndarray:
    """(draws, N) place of every speaker's own voice among `candidates`, of which it is one, for
    random galleries; one draw where that is all of them."""
    count = len(similar_NN)
    beats_NN = similar_NN >= np.diag(similar_NN)[:, None]
    if candidates >= count:
        return beats_NN.sum(1)[None].astype(float)
    random, out = np.random.default_rng(0), np.empty((DRAWS, count))
    for row in out:
        for n in range(count):
            rivals = random.permutation(count - 1)[:candidates - 1]
            row[n] = 1 + beats_NN[n, rivals + (rivals >= n)].sum()
    return out


def alike(voices: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of (P, V) voices of every speaker: the mean cosine of two of one, (N,), NaN where there is
    one; all cosines of two of one; all of two speakers'."""
    of = np.repeat(np.arange(len(voices)), list(map(len, voices)))
    similar = retrieval.cosines(*[np.concatenate(voices)] * 2)
    first, second = np.triu_indices(len(of), 1)
    is_same, cosine = of[first] == of[second], similar[first, second]
    own = [cosine[is_same & (of[first] == n)] for n in range(len(voices))]
    return (np.array([x.mean() if len(x) else np.nan for x in own]), cosine[is_same],
            cosine[~is_same])


def equal_error(same: np.ndarray, other: np.ndarray) -> float:
    """The equal error rate of telling pairs of one from pairs of two by a threshold; NaN without
    either."""
    if not (len(same) and len(other)):
        return np.nan
    at = np.unique(np.concatenate([same, other]))
    missed = np.searchsorted(np.sort(same), at) / len(same)  # below the threshold
    taken = 1 - np.searchsorted(np.sort(other), at) / len(other)
    best = np.argmin(np.abs(missed - taken))
    return float((missed[best] + taken[best]) / 2)
