"""The samples that a config asks for once training is done (`config.sample`)."""

from pathlib import Path

from avjax.errors import UserError
from avjax.storage import lock
from avjax.systems import api
from data_pipelines import decode
from data_pipelines.store import dataset as store
from launch import data
from launch.jobs import generate as jobs


def requests_of(wanted) -> list[tuple[str, dict]]:
    """(name of the files, request) of what `config.sample` asks for.

    `text` or `audio` give WORKDIR/sample; each of `tasks` gives WORKDIR/sample_TASK from `example`
    ("SPLIT/ID" or "SPLIT/NUMBER" of the dataset), or from the text or audio where there is no
    example.
    """
    spoken = {name: wanted[name] for name in ("text", "audio") if wanted[name]}
    example = {"example": wanted["example"]} if wanted.get("example") else {}
    tasks = tuple(wanted.get("tasks", ()))
    found = [("sample", spoken)] if spoken and (example or not tasks) else []
    found += [(f"sample_{task}", {"task": task} | (example or spoken)) for task in tasks]
    return found + ([("sample", example)] if example and not tasks and not spoken else [])


def check(config) -> None:
    """UserError for a sample that could not be generated once training is done: unknown task or
    example, nothing to drive it, text over the context, ..."""
    requests = requests_of(config.sample)
    if not requests or not data.main_folder(config.data):
        return
    system = api.build(config.system)
    decoder = decode.Decoder.from_dataset(store.open_dataset(data.main_folder(config.data)))
    for name, request in requests:
        try:
            jobs.prompt_of(config, system, decoder, **request)
        except UserError as error:
            raise UserError(f"cannot generate the {name} that the config asks for: {error}",
                            where="config.sample",
                            hint="change config.sample, or leave it empty") from error


def generate(wanted, workdir: Path, *, patience: float) -> int:
    """Generates the samples; returns how many. `patience`: seconds to wait for whoever writes the
    same files."""
    requests = requests_of(wanted)
    for name, request in requests:
        with lock.hold(lock.beside(workdir / name), "the sample", workdir / name, wait=patience):
            jobs.generate(workdir, out=workdir / name, **request)
    return len(requests)
