"""Talker-T2AV-Data (a csv and shards of wav + LIA-X motion) and lists of plain speech -> one
dataset of clips.

    metadata/train.csv        sample_id, dataset_source, split, text, wav_path, motion_pt_path, video_path, pt_length, fps
    shards/*.tar              the files that the csv names; read where they are, extracted or not
    lia_x/motion_{mean,std}.npy   (40,) each; elsewhere: --statistics
    --tts LIST                one wav a line, its text in a .json of the same name: {"text": ...}

Clips keep their own length and LIA-X's raw motion; the statistics go along as the codec "motion". A
clip without motion (0 frames) is one for TTS; a dataset of a list alone has no motion and needs no
statistics. Held out: by the csv's column `split` where it has held-out rows, otherwise a share of
the recordings by a hash of their name, so that more data moves nothing from one side to the other.
Speech lists are always split by hash, into train and valid_tts, so that every clip of `valid` has
motion.

What cannot be used is reported with its reason and goes to OUT.quarantine.jsonl.

Several jobs can share the work: a Part in place of `out` (data_pipelines/store/merge.py), or
`parallel` workers that make them.
"""

import collections
import concurrent.futures
import contextlib
import functools
import hashlib
import itertools
import json
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator

import numpy as np
from tqdm import tqdm

from avjax.errors import UserError
from avjax.storage import failures
from data_pipelines.ingest.common import recordings
from data_pipelines.ingest.talker import listing as rows_of
from data_pipelines.ingest.talker.listing import FPS, LONGEST, RATE, WIDTH, BadRow, Row
from data_pipelines.media.tar_tree import TarTree
from data_pipelines.store import dataset as store
from data_pipelines.store import request
from data_pipelines.store.merge import Part
from data_pipelines.store.resume import Partial
from data_pipelines.store.schema import Feature, arrays_hash

STD_FLOOR = 1e-6  # as the release clips it
PARTS = True  # a Part can be made in place of the whole
SHOWN = 20  # bad rows that are printed; the file has all
FEATURES = {
    "id": Feature((), "str", "the csv's sample_id, or tts- and the wav's path"),
    "speaker": Feature((), "str", "speaker where known, else the corpus that the clip comes from"),
    "text": Feature((), "str", "what is said"),
    "audio": Feature((None,), "int16", "mono waveform", "1/32768", RATE),
    "motion": Feature((None, WIDTH), "float32", "LIA-X motion code, not normalised; 0 frames = "
                                                "speech only", "", FPS),
}


def prepare(source, out, *, statistics: str | None = None, tts: str | None = None,
            valid_share: float = 0.02, max_bad: float = 0.5, recording: str | None = None,
            trim_audio: bool = False, threads: int = 1,
            parallel=None, progress: bool = True) -> dict | None:
    """Makes the dataset OUT (a clip dataset) and OUT.quarantine.jsonl; returns the counts that it
    prints, or None for a part when others are not whole.

    Args:
      source: folder with metadata/train.csv (may be absent with `tts`).
      out: folder to make; must not exist. Or a Part of it: a job that goes on after a kill.
      statistics: folder with motion_mean.npy and motion_std.npy, where the source has none.
      tts: file with one wav path a line; relative ones are below `source`, or beside the list.
      valid_share: share of the recordings held out (at least one) where the csv holds none out; 0 =
        none.
      max_bad: largest share of unusable rows that is taken for a dataset's ordinary dirt.
      recording: pattern whose first group, found in sample_id, names the recording that a clip was
        cut from; clips of one recording (or one video_path, or one speaker where the csv has such a
        column) are held out together.
      trim_audio: cut sound that is longer than its motion, as the release does, instead of refusing
        the clip.
      threads: that read and resample in parallel; the result does not depend on it.
      parallel: workers (data_pipelines/store/beam.py) that make the parts.

    Raises:
      UserError: no csv, columns or (with a csv) statistics missing, damaged shard, too many bad
        rows, nothing usable in a split.
    """
    if parallel is not None:
        arguments = dict(statistics=statistics, tts=tts, valid_share=valid_share, max_bad=max_bad,
                         recording=recording,
                         trim_audio=trim_audio, progress=False)
        store.refuse_existing(out)
        parallel.for_each(functools.partial(_part, str(source), str(out), parallel.parts,
                                            arguments), range(parallel.parts))
        # its workers start no part again after the end
        request.note_of(pathlib.Path(out)).unlink(missing_ok=True)
        return _told(pathlib.Path(out), {"clips": sum(store.open_dataset(out).splits.values())})
    part, out, source = out if isinstance(out,
                                          Part) else None, pathlib.Path(out), pathlib.Path(source)
    if not part:
        store.refuse_existing(out)
    for name, value in (("--valid_share", valid_share), ("--max_bad", max_bad)):
        if not 0 <= value <= 1:
            raise UserError("a share lies between 0 and 1", where=name, expected="0 to 1",
                            found=str(value))
    if not source.is_dir():
        raise UserError("no such folder", where="--source",
                        expected="a folder with metadata/train.csv",
                        found=str(source))
    listing = rows_of.Listing(source, tts, _pattern(recording))
    codecs = {"motion": motion_statistics(source, statistics)} if listing.csv.is_file() else {}
    features = {name: feature for name, feature in FEATURES.items() if name != "motion" or codecs}
    made_by = {"motion": {"kind": "lia-x", "rate": FPS, "width": WIDTH, "normalised": False,
                          "codec": arrays_hash(codecs["motion"])}} if codecs else {}
    plan = Plan(listing, valid_share)
    written = dict(name="talker", description="Talker-T2AV-Data, made by launch.prepare "
                                              "--dataset=talker.", features=features,
                   codecs=codecs, totals=dict(plan.counts), progress=progress,
                   recipes={"audio": {**recordings.AUDIO_RECIPE, "sample_rate": RATE}} | made_by)
    if part:
        options = {"valid_share": valid_share, "recording": recording, "trim_audio": trim_audio}
        wanted = options | {"rows": listing.content(),
                            "codecs": {n: arrays_hash(c) for n, c in codecs.items()}}
        if request.made_before(part, wanted):
            return _told(out, {"clips": sum(store.open_dataset(out).splits.values())})
        if (dataset := _write_part(part, listing, plan, written, max_bad, options)) is None:
            return None
        return _told(out, {"rows": plan.total, "clips": sum(dataset.splits.values())})
    tree = TarTree(source, progress=progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    with Quarantine(out.with_name(out.name + ".quarantine.jsonl"), plan.total, max_bad,
                    progress) as quarantine:
        for shard, member, why in tree.refused:
            quarantine.note({"shard": shard, "member": member, "reason": "unsafe tar member",
                             "detail": why})
        counts, seen = collections.Counter(), set()
        reader = rows_of.Reader(tree, listing.list_dir, trim_audio)
        splits = {}
        for split in plan.counts:
            clips = _examples(listing, plan, split, reader, quarantine, counts, seen, threads)
            examples = ({name: clip[name] for name in features} for clip in clips)
            splits[split] = _first_checked(split, examples, out)
        store.write_dataset(out, splits=splits, **written)
    summary = {"rows": plan.total, "refused": dict(quarantine.reasons.most_common()), **counts}
    print(describe(summary, out, quarantine))
    return summary


def made_of(source, tts: str | None = None) -> str:
    """Tells the tables and shards of a source from others."""
    root = pathlib.Path(source)
    shards = [(p.name, p.stat().st_size) for p in sorted((root / "shards").glob("*.tar"))]
    return hashlib.sha256(json.dumps([rows_of.Listing(root, tts).content(),
                                      shards]).encode()).hexdigest()[:16]


def _part(source: str, out: str, count: int, arguments: dict, index: int) -> None:
    """One part; one that runs again when all is done has nothing to do."""
    if not pathlib.Path(out).exists():
        prepare(source, Part(pathlib.Path(out), index, count), **arguments)


def _write_part(part: Part, listing: "rows_of.Listing", plan: "Plan", written: dict, max_bad: float,
                options: dict):
    """Writes the part's rows; the dataset, if it was the last part. A clip is what `_examples`
    makes of its row, and a row whose id an earlier usable one has is refused, whichever part that
    is in."""
    with Partial(part, {"dataset": "talker", "rows": listing.content(), **options}, paths=("source",
                 )) as job:
        tree = TarTree(listing.root,
                       index=job.once("tar_index",
                                      lambda: TarTree(listing.root, progress=False).index()))
        reader = rows_of.Reader(tree, listing.list_dir, options["trim_audio"])
        rows = _rows_of(part, listing, plan)
        if mended := _mended(job, rows, reader):
            print(f"part {part.index} is made anew: what was refused can be used now: "
                  f"{', '.join(mended[:SHOWN])}",
                  file=sys.stderr, flush=True)
            job.renew()
        items = {split: [row and functools.partial(_example, reader, *row,
                                                   tuple(written["features"])) for row in mine]
                 for split, mine in rows.items()}
        return store.write_dataset(job, splits=items, max_bad=max_bad, **written)


def _mended(job: Partial, rows: dict[str, list], reader: "rows_of.Reader") -> list[str]:
    """Ids of rows that an interrupted job has refused, and that can be used now."""
    refused = collections.defaultdict(str)
    for split in rows:
        for one in itertools.chain.from_iterable(record["refused"]
                                                 for record in job.records(split)):
            refused[one["id"]] += one["detail"]
    mended = []
    for row, earlier in filter(None, itertools.chain.from_iterable(rows.values())):
        if f"where: {row.line};" in refused.get(row.id, ""):
            with contextlib.suppress(store.Unusable):
                _example(reader, row, earlier, ())
                mended.append(row.id)
    return mended


def _rows_of(part: Part, listing: "rows_of.Listing",
             plan: "Plan") -> dict[str, list[tuple[Row, tuple[Row, ...]] | None]]:
    """{split: its rows, each with those of its id that stand earlier}; None in place of other
    parts' rows, which are many."""
    mine, order = {split: part.of(range(n)) for split, n in plan.counts.items()}, list(plan.counts)

    def placed() -> Iterator[tuple[int, int, Row]]:
        """(which split, which row of it, row) as the tables have them."""
        seen = collections.Counter()
        for row in listing:
            split = plan.split(row)
            yield order.index(split), seen[split], row
            seen[split] += 1

    ids = {row.id for split, k, row in placed() if k in mine[order[split]]}
    same = collections.defaultdict(list)
    for split, k, row in placed():
        if row.id in ids:
            same[row.id].append((split, k, row))
    out = {split: [None] * n for split, n in plan.counts.items()}
    for rows in same.values():
        rows.sort(key=lambda one: one[:2])
        for i, (split, k, row) in enumerate(rows):
            if k in mine[order[split]]:
                out[order[split]][k] = row, tuple(earlier for *_, earlier in rows[:i])
    return out


def _example(reader: "rows_of.Reader", row: Row, earlier: tuple[Row, ...],
             columns: tuple[str, ...]) -> dict:
    for other in earlier:
        with contextlib.suppress(BadRow):
            reader.read(other)
            raise store.Unusable("duplicate id", id=row.id, where=row.line,
                                 found="an earlier row has the same sample_id")
    try:
        clip = reader.read(row)
    except BadRow as error:
        raise store.Unusable(error.reason, id=row.id, where=row.line, found=error.detail) from error
    return {name: clip[name] for name in columns}


def _told(out: pathlib.Path, summary: dict) -> dict:
    """The counts of a dataset that was made in parts, printed."""
    path = out.with_name(out.name + ".quarantine.jsonl")
    lines = path.read_text().splitlines() if path.is_file() else []
    summary |= {"refused":
                dict(collections.Counter(json.loads(line)["reason"]
                                         for line in lines).most_common())}
    print("\n".join(f"{name:>18}: {value}" for name,
                    value in (summary | {"refused": len(lines), "written": out}).items()))
    return summary


def motion_statistics(source: pathlib.Path, folder: str | None) -> dict[str, np.ndarray]:
    """{"mean", "std"} (40,) float32, std at least 1e-6. Raises UserError: missing, unreadable,
    another width."""
    places = [pathlib.Path(folder)] if folder else [source / "lia_x", source / "metadata", source]
    place = next((p for p in places if (p / "motion_mean.npy").is_file()
                  and (p / "motion_std.npy").is_file()), None)
    if place is None:
        raise UserError("motion statistics missing", where=", ".join(map(str, places)),
                        expected="motion_mean.npy and motion_std.npy", found="none",
                        hint="--statistics=DIR, the folder that has them (lia_x of the release)")
    out = {}
    for key in ("mean", "std"):
        path = place / f"motion_{key}.npy"
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise UserError("unreadable motion statistics", where=str(path),
                            expected="a plain .npy file", found=str(error),
                            hint="fetch it again") from error
        if array.shape != (WIDTH,) or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise UserError("motion statistics of another kind", where=str(path),
                            expected=f"({WIDTH},) finite floats",
                            found=f"{array.shape} {array.dtype}", hint="--statistics=DIR")
        out[key] = array.astype(np.float32)
    return out | {"std": np.maximum(out["std"], STD_FLOOR)}


class Plan:
    """Which split a row belongs to. One pass over the csv and the list, before anything is read;
    keeps no rows.

    `counts` {split: rows}, in the order in which splits are written; `total` rows.
    """

    def __init__(self, listing: "rows_of.Listing", share: float):
        named, lowest = collections.Counter(), {True: 1.0, False: 1.0}
        for row in listing:
            if not row.speech_only:
                named[row.split] += 1
            lowest[row.speech_only] = min(lowest[row.speech_only], _place(row.group))
        self._by_csv = any(split != "train" for split in named)
        # A share by hash; where the dataset is so small that nobody falls below it, the lowest one
        # is held out.
        floor = {kind: np.nextafter(lowest[kind], 2) if kind is (not named) else 0.0
                 for kind in lowest}
        self._below = {kind: max(share, floor[kind]) if share else 0.0 for kind in lowest}
        found = collections.Counter(self.split(row) for row in listing)
        self.total = found.total()
        self.counts = {split: found[split]
                       for split in sorted(found, key=lambda s: (s != "train", s))}
        if not self.total:
            raise UserError("no rows", where=str(listing.csv), expected="at least one", found="0")
        if not found["train"]:
            raise UserError("nothing left to train on", where=str(listing.csv),
                            expected="two recordings or more",
                            found=f"{self.total} rows, all held out",
                            hint="more data, --recording or --valid_share=0")

    def split(self, row: Row) -> str:
        """train, valid, test (the csv's), or valid_tts."""
        if self._by_csv and not row.speech_only:
            return row.split
        held_out = _place(row.group) < self._below[row.speech_only]
        return "train" if not held_out else "valid_tts" if row.speech_only else "valid"


class Quarantine:
    """Bad rows: a line each on stderr (the first few) and in a file; too many of them end the
    job."""

    def __init__(self, path: pathlib.Path, total: int, max_bad: float, progress: bool):
        self.path, self.reasons, self._total, self._max_bad, self._progress = \
            path, collections.Counter(), total, max_bad, progress
        self._aside = path.with_name(f".{path.name}.part")

    def __enter__(self) -> "Quarantine":
        self._file = open(self._aside, "w", encoding="utf-8")
        return self

    def __exit__(self, *error):
        self._file.close()
        self._aside.replace(self.path)  # after a failure too: it says why

    def note(self, entry: dict) -> None:
        """Writes something down that is not a row of the dataset."""
        self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def add(self, row_id: str, line: str, error: BadRow) -> None:
        """Writes a bad row down. Raises UserError when they are too many for any ending to be a
        good one."""
        self.note({"id": row_id, "row": line, "reason": error.reason, "detail": error.detail})
        self.reasons[error.reason] += 1
        bad = self.reasons.total()
        if self._progress and bad <= SHOWN:
            tqdm.write(f"refused {row_id} ({line}): {error.reason}: {error.detail}"
                       + ("\n(further ones only in the file)" if bad == SHOWN else ""),
                       file=sys.stderr)
        if bad > self._max_bad * self._total:
            raise UserError("too many bad rows", where=str(self.path),
                            expected=f"at most {self._max_bad:.0%} of "
                            f"{self._total}",
                            found=", ".join(f"{n} x {r}" for r, n in self.reasons.most_common()),
                            hint="mend what the file lists, or --max_bad")


def _examples(listing, plan: Plan, split: str, reader, quarantine: Quarantine, counts, seen: set,
              threads: int) -> Iterator[dict]:
    """The usable clips of a split in order of the csv and then the list; reads a few rows ahead of
    the writer."""
    def read(row: Row):
        try:
            return row, reader.read(row)
        except BadRow as error:
            failures.check(error)  # what could not be read is not a bad row
            return row, error

    for row, clip in _mapped(read, (row for row in listing if plan.split(row) == split), threads):
        if not isinstance(clip, BadRow) and row.id in seen:
            clip = BadRow("duplicate id", "an earlier row has the same sample_id")
        if isinstance(clip, BadRow):
            quarantine.add(row.id, row.line, clip)
            continue
        seen.add(row.id)
        frames = len(clip["motion"]) or len(clip["audio"]) // rows_of.SAMPLES
        counts[split] += 1
        counts["speech only"] += row.speech_only
        counts["longer than 30 s"] += frames > LONGEST
        counts["sound trimmed"] += clip.pop("trimmed")
        counts["channels mended"] += clip.pop("mended")
        counts["pt_length differs"] += bool(row.frames and row.frames != frames
                                            and not row.speech_only)
        yield clip


def _first_checked(split: str, examples: Iterator[dict], out: pathlib.Path) -> Iterable[dict]:
    """The same examples; UserError at once when there are none, before hours of work on another
    split."""
    for first in examples:
        return itertools.chain([first], examples)
    raise UserError("no usable clip in a split", where=split, expected="at least one", found="none",
                    hint=f"see {out.name}.quarantine.jsonl beside the output, mend the rows or "
                    "their split")


def _mapped(function, items: Iterable, threads: int) -> Iterator:
    """`map` in order, by threads that run a little ahead."""
    if threads <= 1:
        yield from map(function, items)
        return
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        waiting = collections.deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 4 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _place(group: str) -> float:
    """0 <= p < 1, fixed by the name alone."""
    digest = hashlib.blake2b(group.encode("utf-8", "surrogateescape"), digest_size=6).digest()
    return int.from_bytes(digest, "little") / 2**48


def _pattern(text: str | None) -> re.Pattern | None:
    try:
        pattern = re.compile(text) if text else None
    except re.error as error:
        raise UserError("not a pattern", where="--recording",
                        expected="a regular expression with one group",
                        found=f"{text!r}: {error}") from error
    if pattern is not None and pattern.groups < 1:
        raise UserError("a pattern without a group", where="--recording",
                        expected=r"for instance '^(.*)_\d+$'",
                        found=repr(text))
    return pattern


def describe(summary: dict, out: pathlib.Path, quarantine: Quarantine) -> str:
    """The counts, a line each."""
    bad = sum(summary["refused"].values())
    lines = [f"{name:>18}: {value}" for name, value in summary.items() if name != "refused"
             and value]
    lines += [f"{'refused':>18}: {bad}" + (f" ({quarantine.path})" if bad else "")]
    lines += [f"{reason:>18}: {number}" for reason, number in summary["refused"].items()]
    if summary.get("longer than 30 s"):
        lines.append("clips over 30 s are kept whole: a row crops them when it is built")
    if summary.get("pt_length differs"):
        lines.append("where pt_length differs from the motion file, the file was believed")
    return "\n".join([*lines, f"written: {out}"])
