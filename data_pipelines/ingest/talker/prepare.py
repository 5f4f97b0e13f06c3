"""Talker-T2AV-Data (a csv and shards of wav + LIA-X motion) and lists of plain speech -> one
dataset of clips.

    metadata/train.csv        sample_id, dataset_source, split, text, wav_path, motion_pt_path,
                              video_path, pt_length, fps
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
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

from avjax.errors import UserError
from avjax.storage import failures
from data_pipelines.declared import Ingest, Option
from data_pipelines.features.talker.statistics import motion_statistics
from data_pipelines.ingest.common import recordings
from data_pipelines.ingest.talker import listing as rows_of
from data_pipelines.ingest.talker.holdout import Plan
from data_pipelines.ingest.talker.listing import FPS, LONGEST, RATE, WIDTH, BadRow, Row
from data_pipelines.ingest.talker.quarantine import SHOWN, Quarantine
from data_pipelines.media.tar_tree import TarTree
from data_pipelines.store import dataset as store
from data_pipelines.store import made_from
from data_pipelines.store.merge import Part
from data_pipelines.store.resume import Partial, clean
from data_pipelines.store.schema import Feature, arrays_hash

FEATURES = {
    "id": Feature((), "str", "the csv's sample_id, or tts- and the wav's path"),
    "speaker": Feature((), "str", "speaker where known, else the corpus that the clip comes from"),
    "text": Feature((), "str", "what is said"),
    "audio": Feature((None,), "int16", "mono waveform", "1/32768", RATE),
    "motion": Feature((None, WIDTH), "float32", "LIA-X motion code, not normalised; 0 frames = "
                                                "speech only", "", FPS),
}


def prepare(
    source, out, *,
    statistics: Annotated[str | None, Option("folder of motion_mean.npy and motion_std.npy, where "
                                             "the source has none")] = None,
    tts: Annotated[str | None, Option("list of wav files with .json sidecars, to add as speech "
                                      "without motion")] = None,
    valid_share: Annotated[float, Option("share of the recordings that is held out where the csv "
                                         "holds none out", least=0, most=1)] = 0.02,
    max_bad: Annotated[float, Option("largest share of unusable rows", least=0, most=1)] = 0.5,
    recording: Annotated[str | None, Option("pattern whose first group in sample_id names the "
                                            "recording of a clip")] = None,
    trim_audio: Annotated[bool, Option("cut sound that is longer than its motion")] = False,
    threads: Annotated[int, Option("that read and resample in parallel", least=1)] = 1,
    parallel=None, progress: bool = True,
) -> dict | None:
    """Makes the dataset OUT (a clip dataset) and OUT.quarantine.jsonl; returns the counts that it
    prints, or None for a part when others are not whole.

    Args:
      source: folder with metadata/train.csv (may be absent with `tts`).
      out: folder to make; must not exist. Or a Part of it, whose job is resumable.
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
        return _told(pathlib.Path(out), {"clips": sum(store.open_dataset(out).splits.values())})
    part = out if isinstance(out, Part) else None
    out = pathlib.Path(out)
    source = pathlib.Path(source)
    if not part:
        store.refuse_existing(out)
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
    options = {"valid_share": valid_share, "recording": recording, "trim_audio": trim_audio}
    asked = options | {"rows": listing.content(),
                       "codecs": {n: arrays_hash(c) for n, c in codecs.items()}}
    if part and out.exists():  # a part that is started again after the end has nothing to do
        clean(out)
        if made_from.same(made_from.read(out), asked):
            return _told(out, {"clips": sum(store.open_dataset(out).splits.values())})
        store.refuse_existing(out)
    if part:
        made_from.ask(out, asked, source)
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
        made_from.ask(out, asked, source)
        store.write_dataset(out, splits=splits, **written)
    summary = {"rows": plan.total, "refused": dict(quarantine.reasons.most_common()), **counts}
    print(describe(summary, out, quarantine))
    return summary


def made_of(arguments: Mapping[str, Any]) -> str:
    """Digest of the tables of `source` and of the names and sizes of its shards."""
    root = pathlib.Path(arguments["source"])
    shards = [(p.name, p.stat().st_size) for p in sorted((root / "shards").glob("*.tar"))]
    return hashlib.sha256(json.dumps([rows_of.Listing(root, arguments.get("tts")).content(),
                                      shards]).encode()).hexdigest()[:16]


DATASET = Ingest(prepare, in_parts=True, made_of=made_of)


def _part(source: str, out: str, count: int, arguments: dict, index: int) -> None:
    """One part; one that runs again when all is done has nothing to do."""
    if not pathlib.Path(out).exists():
        prepare(source, Part(pathlib.Path(out), index, count), **arguments)


def _write_part(part: Part, listing: rows_of.Listing, plan: Plan, written: dict, max_bad: float,
                options: dict):
    """Writes the part's rows; the dataset, if it was the last part. A clip is what `_examples`
    makes of its row; a row is unusable if an earlier usable one, of any part, has its id."""
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


def _mended(job: Partial, rows: dict[str, list], reader: rows_of.Reader) -> list[str]:
    """Ids of rows that an interrupted job could not use and that can be used now."""
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


def _rows_of(part: Part, listing: rows_of.Listing,
             plan: Plan) -> dict[str, list[tuple[Row, tuple[Row, ...]] | None]]:
    """{split: its rows, each with earlier rows of its id}; None in place of other
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


def _example(reader: rows_of.Reader, row: Row, earlier: tuple[Row, ...],
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
