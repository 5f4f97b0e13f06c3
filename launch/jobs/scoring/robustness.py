"""Looks at one side of a TAVID checkpoint's robustness."""

import pathlib
from collections.abc import Iterable, Sequence

from avjax.checkpoint import checkpoints
from avjax.errors import UserError
from avjax.storage import lock
from avjax.systems import api
from data_pipelines import decode, vocoders
from data_pipelines.loading.loader import check_recipes
from data_pipelines.store import dataset as store
from eval.robustness import job
from eval.robustness.subject import Subject
from eval.run import runner
from launch import data
from launch import flags as launch_flags
from launch.jobs import evaluate

FOLDER = "robustness"


def folders(given: Iterable[str]) -> dict[str, pathlib.Path]:
    """{condition: folder} of FOLDER or NAME=FOLDER. UserError: a name twice, or one that a check
    gives itself."""
    out: dict[str, pathlib.Path] = {}
    taken = {a.name for a in job.portraits.alterations({"kind": "puppet"})}
    for one in given:
        name, equals, folder = one.rpartition("=")
        path = pathlib.Path(folder)
        name = name if equals else path.absolute().name
        words = name.split()
        if not folder or not words or name in out or words[0] in taken | {"as"}:
            raise UserError("folders need names of their own", where="--portraits",
                            expected="FOLDER or NAME=FOLDER, every name once, not beginning with "
                            + ", ".join(sorted(taken)), found=repr(one))
        out[name] = path
    return out


def run(check: str, config, workdir, checkpoint, out, *, splits: Sequence[str] | None = None,
        portraits: Iterable[str] = (), progress: bool = True) -> dict:
    """Writes robustness.CHECK.json, .txt and .png to `out` and prints the tables.

    Args:
      check: of eval.robustness.job.CHECKS.
      config, workdir, checkpoint: see launch.jobs.evaluate.evaluate.
      splits: default config.evaluate.splits; of "speakers" all but the training split.
      portraits: FOLDER or NAME=FOLDER with pictures called after speakers.

    Raises UserError: no dataset or checkpoint, another system, what the check cannot look at.
    """
    given = folders(portraits)
    if given and check != job.portraits.NAME:
        raise UserError("--portraits says nothing to this check", where="--robustness",
                        expected=job.portraits.NAME, found=check)
    dataset = store.open_dataset(launch_flags.fill(data.main_folder(config.data), workdir))
    system = api.build(config.system)
    runner.check(system, dataset)
    if not splits:
        held_out = tuple(s for s in dataset.splits if s != config.data.train_split)
        splits = held_out if check == job.speakers.NAME else tuple(
            config.evaluate.splits) or held_out
    decoder = decode.Decoder.from_dataset(dataset, vocoder=config.evaluate.vocoder
                                          or vocoders.in_workdir(workdir))
    params, saved = checkpoints.load(checkpoint, system)
    check_recipes(dataset, saved.get("recipes", {}), system.example_spec, checkpoint)
    subject = Subject(system, params, dataset, decoder,
                      clips=evaluate.clips_of(config, workdir, dataset),
                      train_split=config.data.train_split, seed=int(config.evaluate.seed),
                      batch_size=config.evaluate.batch_size,
                      max_examples=config.evaluate.max_examples)
    with lock.hold(pathlib.Path(out).absolute() / lock.RESULTS, "the results in", out):
        results = job.run(check, subject, out, splits, progress=progress,
                          **({"given": given} if given else {}))
    print(job.text(results), end="")
    for split, told in results.get("portraits", {}).items():
        for name, of in told.items():
            if of["as_given"]:
                print(f"{split}, {name}: no face is found in {', '.join(of['as_given'])}; taken as "
                      "they are")
    print(f"results: {pathlib.Path(out) / job.PREFIX}.{check}.json, .txt, .png")
    return results
