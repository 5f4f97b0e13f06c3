"""The films and sounds that people judge: the same items in every condition."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from avjax.errors import UserError
from data_pipelines.media import containers, sound

SUFFIXES = {".mp4": "video", ".webm": "video", ".wav": "audio", ".mp3": "audio", ".m4a": "audio",
            ".flac": "audio", ".ogg": "audio"}  # what browsers play
KEPT = "media"  # folder of an evaluation's results that avjax evaluate --keep_media fills
RATE = 22050  # Hz at which loudness is measured

Conditions = dict[str, dict[str, pathlib.Path]]  # {condition: {item: file}}


def kind(path: pathlib.Path) -> str:
    """"video" or "audio"."""
    return SUFFIXES[path.suffix.lower()]


def files(folder: pathlib.Path, where: str, medium: str = "") -> dict[str, pathlib.Path]:
    """{item: file} of a folder and its folders; an item is a path in it without its suffix. Of one
    item as film and as sound, the film, or `medium`: "video" or "audio" alone. UserError: no
    folder, no such media, two files of one item."""
    if not folder.is_dir():
        raise UserError("no such folder", where=where, found=str(folder))
    found: dict[str, pathlib.Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or (
                medium and kind(path) != medium):
            continue
        item = path.relative_to(folder).with_suffix("").as_posix()
        other = found.setdefault(item, path)
        if other is not path and kind(other) == kind(path):
            raise UserError("two files of one name", where=where, found=f"{other.name} and "
                            f"{path.name}", hint="remove one of them")
        if kind(path) == "video":
            found[item] = path
    if not found:
        raise UserError(f"no {medium or 'media'} in this folder", where=where, found=str(folder),
                        expected=", ".join(s for s, k in SUFFIXES.items() if medium in ("", k)))
    return found


def kept(results: str, splits: Sequence[str], variants: Sequence[str],
         medium: str = "") -> Conditions:
    """{variant: {"SPLIT/ID": file}} of an evaluation's kept media. Empty `splits` or `variants` are
    all. UserError if there are none, or no such split or variant."""
    folder = pathlib.Path(results).expanduser() / KEPT
    places = sorted(p for p in folder.glob("*/*") if p.is_dir())
    if not places:
        raise UserError("no kept media here", where=f"--results={results}",
                        expected=f"{KEPT}/SPLIT/VARIANT/", found="none",
                        hint="avjax evaluate --keep_media leaves them, or name a folder: --media")
    for flag, wanted, there in (("split", splits, {p.parent.name for p in places}),
                                ("variant", variants, {p.name for p in places})):
        if unknown := sorted(set(wanted) - there):
            raise UserError(f"no such {flag}", where=f"--results={results}",
                            expected=" or ".join(sorted(there)), found=", ".join(unknown))
    out: Conditions = {}
    for place in places:
        split, variant = place.parent.name, place.name
        if (not splits or split in splits) and (not variants or variant in variants):
            out.setdefault(variant, {}).update(
                {f"{split}/{item}": path
                 for item, path in files(place, str(place), medium).items()})
    return out


def conditions(results: Sequence[str], media: Sequence[str], splits: Sequence[str],
               variants: Sequence[str], medium: str = "") -> Conditions:
    """Of --results (their variants, after the folder's name where there are several) and of --media
    (NAME=FOLDER). UserError: fewer than one, or two of one name."""
    found: list[tuple[str, dict[str, pathlib.Path]]] = []
    for folder in results:
        prefix = f"{pathlib.Path(folder).absolute().name}/" if len(results) > 1 else ""
        found += [(prefix + v, x) for v, x in kept(folder, splits, variants, medium).items()]
    for given in media:
        name, equals, folder = given.partition("=")
        if not (name and equals and folder):
            raise UserError("a name and a folder are needed", where="--media",
                            expected="--media=NAME=FOLDER", found=given)
        found.append((name, files(pathlib.Path(folder).expanduser(), f"--media={given}", medium)))
    if not found:
        raise UserError("nothing to judge", expected="--results=DIR or --media=NAME=FOLDER")
    names = [name for name, _ in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError("two conditions of one name", where="--results, --media",
                        found=", ".join(twice), hint="give folders different names")
    return dict(found)


def items(found: Conditions, most: int, common: bool, seed: int) -> list[str]:
    """The items that every condition has: all, or `most` of them at random.

    Args:
      common: whether an item that some condition lacks is left out.

    Raises UserError: an item is missing otherwise, none is left, a film beside a sound.
    """
    everywhere = set.intersection(*map(set, found.values()))
    lacking = sorted((item, name) for name, own in found.items()
                     for item in set().union(*found.values()) - own.keys())
    if lacking and not common:
        item, name = lacking[0]
        raise UserError("a condition lacks media", where=name, expected=item,
                        found=f"{len(lacking)} files missing in all" if len(lacking) > 1
                        else "no such file",
                        hint="--common leaves out what not all conditions have")
    if not everywhere:
        raise UserError("no item that all conditions have", where=", ".join(found),
                        hint="files of different conditions must have the same names")
    for item in sorted(everywhere):
        if len({kind(own[item]) for own in found.values()}) > 1:
            raise UserError("a film in one condition, a sound in another", where=item,
                            found=", ".join(own[item].name for own in found.values()),
                            hint="--medium=audio judges sounds alone")
    ordered = sorted(everywhere)
    if most and most < len(ordered):
        chosen = np.random.default_rng(seed).permutation(len(ordered))[:most]
        ordered = [ordered[i] for i in sorted(chosen.tolist())]
    return ordered


def level(paths: Sequence[pathlib.Path]) -> float | None:
    """Median RMS of the files' sounds, of full scale 1; None where all are silent or have none.
    UserError for a file that cannot be read, or lacks what its name promises."""
    found = []
    for path in paths:
        there = containers.probe(path)
        if not (there.video if kind(path) == "video" else there.audio):
            raise UserError("no pictures in a film" if kind(path) == "video" else "no sound in a "
                            "sound file", where=str(path), hint="remove it, or convert it")
        if there.audio:
            found.append(float(np.sqrt(np.mean(np.square(sound.read_audio(path, RATE))))))
    heard = [x for x in found if x > 1e-5]
    return float(np.median(heard)) if heard else None


def check_text(lines: Mapping[str, object]) -> np.ndarray:
    """(270, 480, 3) uint8: white with lines of text, {text: its size in pixels}."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (480, 270), "white")
    draw, y = ImageDraw.Draw(picture), 60
    for text, size in lines.items():
        font = ImageFont.load_default(size)
        draw.text((240, y), text, "black", font=font, anchor="ma")
        y += int(size * 1.8)
    return np.asarray(picture)
