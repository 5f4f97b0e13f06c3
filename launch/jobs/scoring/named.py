"""Named benchmarks: what `avjax evaluate --benchmark` scores, a checkpoint or folders of files that
were generated elsewhere."""

import pathlib
from collections.abc import Iterable, Sequence

from avjax.errors import UserError
from avjax.storage import lock
from data_pipelines import decode, prepare
from data_pipelines.store import dataset as store
from data_pipelines.store import made_from
from data_pipelines.store.schema import CHECKSUMS_FILE, FAMILY
from eval.benchmarks.named import films, listeners
from eval.benchmarks.named.declaration import Named
from eval.benchmarks.named.given import Made
from eval.data.matched import arrays_of, match, read_list
from eval.data.recorded import Folder
from eval.report import page
from eval.run import runner
from eval.run.rows import WHOLE, Share, lock_file
from launch.jobs.evaluate import PATIENCE
from launch.jobs.scoring import told

# {family of features: what scores a checkpoint that makes its streams of real recordings}
SCORED_BY = {"avflow": "clips", "talker": "clips", "tavid": "dialogue", "vocoder": "vocoder",
             "text_tokens": "text_tokens"}
TRUTH = "truth"


def of_checkpoint(config, named: Named, data, split: Sequence[str] | None):
    """Sets the config's data, benchmark and splits to those of a named benchmark.

    Args:
      data: its features, or its clips with `features` inside or beside them.
      split: instead of the declared splits.

    Raises UserError: not a dataset, another corpus', features that nothing scores, no such split.
    """
    dataset = _features(data)
    with config.unlocked():
        config.data.dir, config.data.mixture = str(dataset.dir), ()  # older jobs know no mixture
        if not named.as_configured:
            family = decode.family_of(dataset.recipes).__module__.split(".")[-2]
            if family not in SCORED_BY:
                raise UserError("features that no benchmark scores", where=str(dataset.dir),
                                expected=" or ".join(SCORED_BY), found=family)
            config.evaluate.benchmark = SCORED_BY[family]
    clips = made_from.source_of(dataset.dir)
    if clips is not None:
        _check_corpus(named, store.open_dataset(clips))
    config.evaluate.splits = splits_of(named, dataset, split)


def splits_of(named: Named, dataset, split: Sequence[str] | None) -> tuple[str, ...]:
    """Those that were asked for, else the declared ones that are there. UserError: none is."""
    for name in split or ():
        runner.check_split(dataset, name)
    found = tuple(split or (name for name in named.splits if name in dataset.splits))
    if not found:
        raise UserError("the benchmark's split is not there", where=str(dataset.dir),
                        expected=" or ".join(named.splits), found=", ".join(dataset.splits),
                        hint="prepare the corpus whole, or name another with --split")
    return found


def folders(generated: Iterable[str]) -> dict[str, pathlib.Path]:
    """{variant: folder} of FOLDER or NAME=FOLDER. UserError: a name twice, or that of the truth."""
    out: dict[str, pathlib.Path] = {}
    for given in generated:
        name, equals, folder = given.rpartition("=")
        path = pathlib.Path(folder)
        name = name if equals else path.absolute().name
        if not folder or name in (*out, TRUTH, ""):
            raise UserError("folders need names of their own", where="--generated",
                            expected="FOLDER or NAME=FOLDER, every name once, none of them "
                            f"{TRUTH!r}", found=repr(given))
        out[name] = path
    return out


def evaluate(named: Named, data, generated: Iterable[str], *, out, ids: str = "",
             networks: str = "", splits: Sequence[str] | None = None, ranked_by: str = "",
             share: Share = WHOLE, progress: bool = True) -> dict | None:
    """Scores folders of generated films and sounds, or of arrays of motion, writes results.json and
    report.html, prints the table.

    Args:
      data: a dataset of clips, features whose clips are at hand, or a folder of recordings.
      generated: FOLDER or NAME=FOLDER, each a variant.
      out: folder of the results.
      ids: a CSV that says which file is which example's; "" = by their names.
      networks: folder of published networks.
      splits: instead of the declared ones.
      ranked_by: see eval.run.runner.Run.
      share: as of launch/jobs/evaluate.py.

    Returns:
      The contents of results.json; None while rows of other shares are missing.

    Raises UserError: whatever keeps all examples from being scored.
    """
    out = pathlib.Path(out)
    dataset = _recordings(named, data, splits)
    splits = splits_of(named, dataset, splits)
    known = [id for names in dataset.ids.values() for id in names]
    listed = read_list(ids, known) if ids else None
    where = folders(generated)
    wanted = [id for split in splits for id in dataset.ids[split]]
    arrays = not isinstance(dataset, Folder) and any(map(arrays_of, where.values()))
    matched = {name: match(folder, wanted, listed, arrays=arrays)
               for name, folder in where.items()}
    for name, folder in where.items():
        for file in matched[name].unused:
            print(f"of no example: {folder / file}")
    scored_by = listeners.Benchmark if arrays else films.Benchmark
    benchmark = scored_by(named, dataset, matched, networks=networks)
    benchmark.load_networks()
    generator, params, made = Made(), benchmark.contents(splits), {}
    with lock.hold(out.absolute() / lock_file(share), "the results in", out):
        run = runner.Run(benchmark, generator, params, out, splits=splits, share=share,
                         ranked_by=ranked_by)
        run.score(progress=progress, made=made)
        with lock.hold(out.absolute() / lock.RESULTS, "the results in", out, wait=PATIENCE):
            results = run.results(
                {"name": named.name, "published": named.published, "protocol": named.protocol,
                 "generated": {n: str(folder) for n, folder in where.items()},
                 "unused": {n: of.unused for n, of in matched.items()}})
            if results is None:
                return None
            if share == WHOLE or not page.shows(out, results):
                shown = [] if arrays else runner.samples(benchmark, generator, params, splits,
                                                         made=made, failed=results["failed"],
                                                         ranked=results["ranked"])
                page.write(out, results, shown)
    told.results_of(results, benchmark, out, out)
    return results


def _features(data) -> store.Dataset:
    """The features in a folder, or of the clips in it."""
    dataset = store.open_dataset(data)
    if not _are_clips(dataset):
        return dataset
    for place in (dataset.dir / "features", dataset.dir.parent / "features"):
        if (place / CHECKSUMS_FILE).is_file() and made_from.source_of(place) == dataset.dir:
            return store.open_dataset(place)
    raise UserError("these are clips, and a checkpoint is scored on features", where=str(data),
                    expected="a dataset of avjax extract, or clips with it in features beside them",
                    found=", ".join(dataset.features),
                    hint="extract them as the training's were: avjax extract "
                    f"--clips={data} --out={dataset.dir.parent / 'features'} ...")


def _recordings(named: Named, data, splits):
    """The recordings that generated files are compared with."""
    folder = pathlib.Path(data)
    if folder.is_dir() and not (folder / CHECKSUMS_FILE).is_file():
        return Folder(folder, (splits or named.splits)[0])
    dataset = store.open_dataset(folder)
    if not _are_clips(dataset):
        clips = made_from.source_of(dataset.dir)
        if clips is None:
            raise UserError("generated files are compared with recordings, not with features",
                            where=str(data), expected="clips, or a folder of recordings",
                            found="features whose clips are not at hand")
        dataset = store.open_dataset(clips)
    _check_corpus(named, dataset)
    return dataset


def _are_clips(dataset) -> bool:
    """Whether avjax prepare made a dataset, rather than avjax extract."""
    return (FAMILY not in dataset.recipes and made_from.read(dataset.dir) is None
            and _corpus(dataset) in prepare.names())


def _corpus(clips) -> str:
    return clips.name.partition("_")[0]  # "puppets_dialogues" are puppets


def _check_corpus(named: Named, clips) -> None:
    if _corpus(clips) not in named.corpora:
        raise UserError("clips of another corpus", where=str(clips.dir), found=clips.name,
                        expected=" or ".join(named.corpora),
                        hint=f"--benchmark={named.name} is of those; avjax evaluate --benchmarks "
                        "lists all")
