"""Tells what a dataset folder holds and whether it is complete:
avjax inspect DIR [--json] [--sample=N]

Prints schema, rates, recipes, splits with counts and hours, clips by speaker, value ranges of a
sample; reads every file against its checksum. Exits with 1 and one line when something is broken.
"""

import argparse
import collections
import json
import pathlib
import sys

import numpy as np

from avjax.errors import UserError
from avjax.storage import failures
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import recipe_hash


def summary(dataset: store.Dataset, *, sample: int = 32, verify: bool = True) -> dict:
    """The content of the report, as JSON values.

    Args:
      dataset: an opened dataset.
      sample: examples a split whose values are looked at, spread evenly.
      verify: compare every file with its checksum.

    Raises:
      UserError: a file differs, a record is corrupt, or a value is not finite.
    """
    if verify:
        dataset.verify()
    splits = {s: _split(dataset, s) for s in dataset.splits}
    values = {}
    for split in dataset.splits:
        source = dataset.source(split)
        for i in np.unique(np.linspace(0, len(source) - 1,
                                       min(sample, len(source))).round().astype(int)):
            _look(dataset, split, source[int(i)], values)
    features = {
        n: {"shape": list(f.shape), "dtype": f.dtype, "rate": f.rate, "unit": f.unit,
            "meaning": f.meaning, "recipe": recipe_hash(dataset.recipes[n]) if n in dataset.recipes
            else None, **values.get(n, {})}
        for n, f in dataset.features.items()}
    return {"dir": str(dataset.dir), "name": dataset.name, "description": dataset.description,
            "features": features, "splits": splits, "codecs": list(dataset.codecs),
            "recipes": dataset.recipes, "files": len(dataset.checksums),
            "bytes": sum(c["bytes"] for c in dataset.checksums.values()),
            "checksums": "match" if verify else "not read"}


def text(report: dict) -> str:
    """The report for people."""
    lines = [f"{report['name']}: {report['description']}",
             f"{report['dir']} ({report['files']} files, {report['bytes'] / 2**20:.1f} MiB, "
             f"checksums {report['checksums']})", "",
             f"{'feature':<20}{'shape':<14}{'dtype':<9}{'rate':<12}{'recipe':<18}"
             f"{'min':>9}{'mean':>9}{'max':>9}  meaning"]
    for name, f in report["features"].items():
        shape = "(" + ", ".join("time" if d is None else str(d) for d in f["shape"]) + ")"
        numbers = [f"{f[k]:9.3g}" if k in f else " " * 9 for k in ("min", "mean", "max")]
        lines.append(
            f"{name:<20}{shape:<14}{f['dtype']:<9}{_rate(f['rate']):<12}{f['recipe'] or '-':<18}"
                     f"{''.join(numbers)}  {f['meaning']}")
    lines += ["", f"{'split':<16}{'clips':>8}{'hours':>9}{'mean s':>8}{'min s':>8}{'max s':>8}  "
              "clips by speaker"]
    for name, s in report["splits"].items():
        speakers = ", ".join(f"{k} {v}" for k, v in s["speakers"].items()) or "-"
        seconds = s.get("seconds")
        times = "".join(f"{seconds[k]:8.2f}"
                        for k in ("mean", "min", "max")) if seconds else " " * 24
        hours = f"{s['hours']:9.3f}" if seconds else " " * 9
        lines.append(f"{name:<16}{s['clips']:>8}{hours}{times}  {speakers[:200]}")
    if report["codecs"]:
        lines += ["", "codecs: " + ", ".join(report["codecs"])]
    return "\n".join(lines)


def _seconds(dataset, split) -> np.ndarray | None:
    """Duration of every example by its slowest stream that has frames (speech alone, say, has none
    of motion)."""
    rates = {n: f.rate for n, f in dataset.features.items() if f.rate and f.shape
             and f.shape[0] is None}
    seconds = np.zeros(dataset.splits[split])
    lengths = dataset.lengths(split, rates) if rates else {}
    for name in sorted(rates, key=rates.get):
        seconds = np.where(seconds > 0, seconds, lengths[name] / rates[name])
    return seconds if rates else None


def _split(dataset, split) -> dict:
    names = dataset.source(split, ("speaker",)) if "speaker" in dataset.features else ()
    speakers, seconds = collections.Counter(example["speaker"]
                                            for example in names), _seconds(dataset, split)
    out = {"clips": dataset.splits[split], "speakers": dict(sorted(speakers.items()))}
    if seconds is not None:
        out |= {"hours": float(seconds.sum()) / 3600, "seconds": {
            "mean": float(seconds.mean()), "min": float(seconds.min()),
            "max": float(seconds.max())}}
    return out


def _look(dataset, split, example, values) -> None:
    for name, value in example.items():
        if isinstance(value, str) or not value.size:
            continue
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise UserError("values are not finite", where=f"{dataset.dir}, split {split}, "
                            f"example {example['id']!r}, feature {name}", expected="finite numbers",
                            found=f"{int((~np.isfinite(value)).sum())} NaN or infinite of "
                            f"{value.size}",
                            hint="make the dataset again without this clip")
        total = values.setdefault(name, {"min": np.inf, "max": -np.inf, "mean": 0.0, "sampled": 0})
        total["min"] = float(min(total["min"], value.min()))
        total["max"] = float(max(total["max"], value.max()))
        total["sampled"] += int(value.size)
        total["mean"] += (float(value.mean(dtype=np.float64)) - total["mean"]) * value.size / total[
            "sampled"]


def _rate(rate) -> str:
    return f"{rate:.6g} Hz" if rate else "-"


def write_portraits(dataset, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes NAME.png of everyone that the clips have a portrait of; for launch.generate
    --portraits."""
    if "portraits" not in dataset.codecs:
        raise UserError("no portraits here", where=str(dataset.dir),
                        expected="a codec 'portraits', e.g. of puppet clips",
                        found=", ".join(dataset.codecs) or "none")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in dataset.codec("portraits").items():
        paths.append(folder / f"{pathlib.PurePath(name).name}.png")
        paths[-1].write_bytes(content.tobytes())
    return paths


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="avjax inspect",
                                     description=__doc__.split("\n")[0])
    parser.add_argument("dir", help="a dataset folder")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--sample", type=int, default=32,
                        help="examples a split whose values are looked at")
    parser.add_argument("--no-verify", action="store_true",
                        help="do not read every file against its checksum")
    parser.add_argument("--portraits", metavar="DIR",
                        help="write the portraits of the corpus' speakers there, as PNG")
    args = parser.parse_args(argv)
    try:
        if args.portraits:
            dataset = store.open_dataset(args.dir)
            print("\n".join(map(str, write_portraits(dataset, pathlib.Path(args.portraits)))))
            return 0
        report = summary(store.open_dataset(args.dir), sample=max(1, args.sample),
                         verify=not args.no_verify)
    except Exception as error:
        if (told := failures.exit_line(error)) is None:
            raise
        print(f"error: {told[1]}", file=sys.stderr)
        return 1
    print(json.dumps(report, indent=1) if args.json else text(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
