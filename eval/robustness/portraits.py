"""Do worse portraits keep a voice? Every speaker's portrait is blurred, rotated in the picture and,
where the head can be turned, shown from the side, in levels that rise; portraits of the user's are
looked at beside them.

Puppets are drawn anew with the head turned. A real face cannot be: `given` takes folders of
pictures, one a speaker. A face embedding is made of the altered picture, as for any portrait; of
features whose embeddings a recogniser has made (kind "given") only folders can be scored, whose
pictures have theirs beside them. All levels are ours by choice; blur is in shares of a side, so
that it means the same at any size. Suffixes: N speakers, V voice.
"""

import dataclasses
import pathlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from avjax.encoders.degrade import blur, rotate
from avjax.errors import UserError
from data_pipelines.features.common import portraits
from data_pipelines.puppets import render
from eval import pooling
from eval.metrics import retrieval
from eval.robustness.kept import Kept
from eval.robustness.subject import Person, Subject

NAME, CLEAN = "portraits", "as it is"
RECIPE = {"implementation": "avjax eval.robustness.portraits 1",
          "both sides": "rotation and yaw to either side, the mean of the two",
          "gallery": "the mean voice of every speaker of the split", "ties": "count against",
          "yaw": "puppets, drawn anew with the head turned"}
COLUMNS = {"R@1": "the share of speakers whose own voice is the nearest to that of the portrait",
           "R@5": "among the five nearest", "place": "mean place of the own voice, 1 is the best",
           "cosine": "of the portrait's voice and the speaker's own",
           "like clean": "cosine of the portrait's voice and that of the portrait as it is"}


@dataclasses.dataclass(frozen=True)
class Alteration:
    """One way, in levels from slight to severe. make: (person, level) -> pictures (K, H, W, 3)."""

    name: str
    unit: str
    levels: tuple[float, ...]
    make: Callable[[Person, float], np.ndarray]


def _blurred(person: Person, level: float) -> np.ndarray:
    return blur(person.portrait, level / 100 * person.portrait.shape[0])[None]


def _rotated(person: Person, level: float) -> np.ndarray:
    return np.stack([rotate(person.portrait, side * level) for side in (1, -1)])


def alterations(recipe: Mapping) -> tuple[Alteration, ...]:
    """Those that portraits made by `recipe` (of the dataset) allow."""
    def turned(person: Person, level: float) -> np.ndarray:
        size, zoom = person.portrait.shape[0], recipe.get("zoom", 1.0)
        return np.stack([render.portrait(person.identity, size, zoom, side * level)
                         for side in (1, -1)])

    always = (Alteration("blur", "% of a side", (0.5, 1, 2, 4, 8), _blurred),
              Alteration("rotation", "degrees", (10, 20, 30, 45, 60), _rotated))
    profile = Alteration("yaw", "degrees", (15, 30, 45, 60), turned)
    return always + ((profile,) if recipe.get("kind") == portraits.PUPPET else ())


@dataclasses.dataclass(frozen=True)
class Folder:
    """The user's pictures of some speakers. pictures: {speaker: (1, H, W, 3)}; faces: (1, F) where
    these are given; as_given: files in which no face was found, taken as they are."""

    pictures: dict[str, np.ndarray]
    faces: dict[str, np.ndarray]
    as_given: tuple[str, ...]

    @property
    def digest(self) -> str:
        """8 hex digits of all of it."""
        found = [(name, *(of[name].tobytes() for of in (self.pictures, self.faces) if name in of))
                 for name in self.pictures]
        return f"{zlib.crc32(repr(found).encode()):08x}"


def read_folder(subject: Subject, folder: pathlib.Path, names: set[str]) -> Folder:
    """UserError: no folder, no picture that is called after a speaker, two of one, an unreadable
    one, no embedding beside one where that is needed."""
    if not folder.is_dir():
        raise UserError("no folder of portraits", where="--portraits", found=str(folder),
                        expected="FOLDER or NAME=FOLDER, with a picture called after each speaker")
    files: dict[str, pathlib.Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.suffix != ".npy"):
        if path.stem in names & files.keys():
            raise UserError("two portraits of one speaker", where=str(folder),
                            expected="one", found=f"{files[path.stem].name}, {path.name}")
        files[path.stem] = path
    if not names & files.keys():
        raise UserError("no portrait of a speaker of the split", where=str(folder),
                        expected="pictures called after speakers, as "
                        + ", ".join(f"{n}.png" for n in sorted(names)[:3]),
                        found=", ".join(p.name for p in list(files.values())[:5]) or "no picture")
    recipe, as_given, pictures, faces = subject.dataset.recipes["portraits"], [], {}, {}
    for name in sorted(names & files.keys()):
        where, picture = str(files[name]), portraits.read(files[name])
        try:
            portraits.check(picture, recipe["kind"], where)
            framed = portraits.prepared(picture, recipe, where)
        except UserError:  # from the side no face is found
            as_given.append(files[name].name)
            framed = portraits.prepared(picture, recipe, where, checked=False)
        pictures[name] = framed[None]
        if not subject.embeds:
            faces[name] = subject.face_of_file(files[name], framed)[None]
    return Folder(pictures, faces, tuple(as_given))


def conditions(subject: Subject) -> dict[str, dict]:
    """{condition: {"group", "unit", "level"}} of what is done to portraits."""
    if not subject.embeds:
        return {}
    ways = alterations(subject.dataset.recipes.get("portraits", {}))
    return {f"{a.name} {level:g}": {"group": a.name, "unit": a.unit, "level": level}
            for a in ways for level in a.levels}


def run(subject: Subject, splits: Sequence[str], kept: Kept,
        given: Mapping[str, pathlib.Path] | None = None) -> dict:
    """{"tables": {split: {condition: {column: entry}}}, "conditions", "portraits"}; rows are kept.
    given: {name: folder of pictures}. UserError: see `Subject`, `read_folder`; nothing to alter."""
    altered = conditions(subject)
    if not altered and not given:
        raise UserError("no portrait can be altered here", where="recipes.json, faces",
                        expected="face embeddings that are made of pictures (kind pca), or "
                        "--portraits=FOLDER with their embeddings", found="kind given")
    tables, told = {}, {}
    for split in splits:
        people = subject.people(split)
        folders = {name: read_folder(subject, path, {p.name for p in people})
                   for name, path in (given or {}).items()}
        steps = list(_steps(subject, people, altered, folders))
        made = {}
        with kept.bar(len(steps), f"portraits {split}") as bar:
            for name, key, make in steps:
                row, arrays = kept.of(make, NAME, split, key)
                made[name] = row["names"], arrays["voices"]
                bar.update()
        tables[split] = _table(people, made)
        told[split] = {name: {"speakers": len(f.pictures), "as_given": list(f.as_given)}
                       for name, f in folders.items()}
    return {"tables": tables, "conditions": altered, "portraits": told}


def _steps(subject: Subject, people: list[Person], altered: Mapping[str, dict],
           folders: Mapping[str, Folder]) -> Iterator[tuple[str, str, Callable[[], tuple]]]:
    """(condition, key of its row, what makes it) of all: {"names": speakers} and "voices" (K, N, V)
    of the K pictures of each."""
    def of(make, faces=None, some=people):
        def row():
            pictures = np.stack([make(p) for p in some], 1)  # K N H W C
            return ({"names": [p.name for p in some]},
                    {"voices": np.stack([subject.voices(k, faces) for k in pictures])})
        return row

    yield CLEAN, CLEAN, of(lambda p: p.portrait[None], np.stack([p.face for p in people]))
    kinds = {a.name: a.make for a in alterations(subject.dataset.recipes.get("portraits", {}))}
    for name, about in altered.items():
        yield name, name, of(lambda p, about=about: kinds[about["group"]](p, about["level"]))
    for name, folder in folders.items():
        some = [p for p in people if p.name in folder.pictures]
        faces = np.concatenate([folder.faces[p.name] for p in some]) if folder.faces else None
        yield name, f"{name} {folder.digest}", of(
            lambda p, folder=folder: folder.pictures[p.name], faces, some)


def _table(people: list[Person], made: Mapping[str, tuple]) -> dict[str, dict]:
    """{condition: {column: {"value", "n", "low", "high"}}} of {condition: (names, voices (K, N,
    V))}. Of one that some speakers lack also CLEAN of the others."""
    true = np.stack([p.voice for p in people])
    all_names = [p.name for p in people]
    clean = dict(zip(made[CLEAN][0], made[CLEAN][1][0], strict=True))
    out = {}
    for condition, (names, voices) in made.items():
        out[condition] = _scores(names, voices, all_names, true, clean)
        if len(names) < len(people):
            same = np.stack([clean[name] for name in names])[None]
            out[f"{CLEAN}, those of {condition}"] = _scores(names, same, all_names, true, clean)
    return out


def _scores(names, voices_KNV, all_names, true_MV, clean) -> dict[str, dict]:
    index = [all_names.index(name) for name in names]
    own = np.stack([clean[name] for name in names])
    found: dict[str, list] = {column: [] for column in COLUMNS}
    for made_NV in voices_KNV:
        similar_NM = retrieval.cosines(made_NV, true_MV)
        mine_N = similar_NM[np.arange(len(index)), index]
        place_N = (similar_NM >= mine_N[:, None]).sum(1)  # a tie counts against it
        for column, value_N in zip(COLUMNS, (
                place_N <= 1, place_N <= 5, place_N, mine_N,
                np.diag(retrieval.cosines(made_NV, own))), strict=True):
            found[column].append(np.asarray(value_N, np.float64))
    return {column: pooling.interval(np.mean(values, 0), pooling.mean)
            for column, values in found.items()}
