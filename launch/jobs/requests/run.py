"""A file of requests: `avjax generate --requests=FILE`.

A request that fails, wherever it does, is recorded with its reason and the others are made: while
it is read, sampled, decoded, drawn or written, by bad input or a defect. What is not the request's
ends the job: no checkpoint, failing storage, a signal.
"""

import contextlib
import itertools
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
from tqdm import tqdm

from avjax.errors import StorageError, UserError
from avjax.inference.local import local_mesh
from avjax.storage import failures
from data_pipelines.live.parts import Settings
from data_pipelines.prompting import Prompt
from launch.jobs import generate, live, targets, video
from launch.jobs.requests import files
from launch.jobs.requests import live as live_several

Made = TypeVar("Made")


def run(workdir, requests, out, *, share: tuple[int, int] = (0, 1), batch_size: int = 0,
        save_latents: bool = False, streamed: Mapping[str, Any] | None = None,
        **settings) -> tuple[int, int]:
    """Generates a file of requests with all devices of this machine; returns (made, skipped).

    Every request becomes OUT/ID.wav etc. and, last, OUT/ID.json, which says what it was made from:
    a request whose file is there, of the same request and settings, is skipped. Streamed, on one
    device, it says how that went too, under "stream"; of one that failed why, under "error".

    Args:
      requests: file with a JSON object a line: "id", and inputs that the system takes.
      out: folder.
      share: (k, n): the k-th of every n requests is this process' own.
      batch_size: requests at a time; 0 = one a device; streamed, `live_several.ROWS`.
      streamed: writes them while they are made: {"format": of `targets.targets`, "chunk",
        "vocoder_block", "vocoder_ahead": as of `launch.jobs.generate.stream`}.
      settings: of `launch.jobs.generate.Avatar`.

    Raises UserError for a file that is none, `NotMade` for requests that failed, once all others
    are made.
    """
    wanted = files.read_requests(pathlib.Path(requests))
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    index, count = share
    own = dict(itertools.islice(wanted.items(), index, None, count))
    made_by = files.settings_of(workdir, settings) | (
        {"streamed": dict(streamed)} if streamed is not None else {})
    todo = {name: request for name, request in own.items()
            if files.done_before(out, name) != {"request": request, "settings": made_by}}
    if not todo:
        return 0, len(own)
    avatar = generate.Avatar(workdir, batch_size=batch_size or len(jax.local_devices()),
                             mesh=local_mesh(), **settings)
    records = Records(out, todo, made_by)
    if streamed is None:
        _write(avatar, _prompts(avatar, records), records, save_latents)
    else:
        _stream(avatar, records, batch_size, **streamed)
    if records.failed:
        raise files.NotMade(requests, records.failed, len(todo))
    return len(todo), len(own) - len(todo)


class Records:
    """What became of each request, kept beside its files.

    Args:
      out: folder.
      requests: {id: request} that are to be made.
      made_by: settings.

    Attributes:
      failed: {id: why}.
    """

    def __init__(self, out: pathlib.Path, requests: Mapping[str, dict], made_by: dict):
        self.out, self.requests, self._made_by = out, requests, made_by
        self.failed: dict[str, str] = {}

    def keep(self, name: str, **told) -> None:
        """See `files.keep`."""
        files.keep(self.out, name, self.requests[name], self._made_by, **told)

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        """What fails inside is that request's failure; failing storage is raised."""
        try:
            yield
        except Exception as error:
            _check_storage(error)
            known = isinstance(error, UserError)
            if not known:
                traceback.print_exception(error)
            self.failed[name] = str(error) if known else f"{type(error).__name__}: {error}"
            generate.say([f"failed, request {name!r}: {self.failed[name]}"])
            files.set_aside(self.out, name)
            self.keep(name, error=self.failed[name])


def _check_storage(error: Exception) -> None:
    if isinstance(error, StorageError):
        raise error
    failures.check(error)


def salvaged(make: Callable[[list[str]], Iterable[tuple[str, Made]]],
             names: Iterable[str]) -> Iterator[tuple[str, Made | Exception]]:
    """(name, what it became) of each, as `make(names)` yields them. Where that raises, what is left
    is made in halves, so that those are found which cannot be: of them the exception. Failing
    storage is raised."""
    left = dict.fromkeys(names)
    try:
        for name, made in make(list(left)):
            del left[name]
            yield name, made
        return
    except Exception as error:
        _check_storage(error)
        if not left:
            raise
        why = error
    if len(left) == 1:
        yield next(iter(left)), why
        return
    rest = list(left)
    for part in (rest[:len(rest) // 2], rest[len(rest) // 2:]):
        yield from salvaged(make, part)


def _prompts(avatar, records: Records, chunk: int | None = None) -> dict[str, Prompt]:
    """{id: prompt} of those that are usable. `chunk`: to be streamed so, see
    `launch.jobs.live.stream`."""
    prompts = {}
    for name, request in records.requests.items():
        with records.of(name):
            prompt = avatar.prompt(**request)
            if chunk is not None:
                live.check_streams(avatar, prompt)
                prompt = avatar.builder.recut(prompt, avatar.system, chunk)
            prompts[name] = prompt
            generate.say(f"{name}: {line}" for line in prompt.remarks)
    if prompts:
        avatar.params  # noqa: B018  what is wrong with them is wrong with the job
    return prompts


def _told(prompt: Prompt) -> dict:
    return {"pieces": len(prompt.pieces)} if prompt.texts else {}


def _write(avatar, prompts: Mapping[str, Prompt], records: Records, save_latents: bool) -> None:
    def make(names):
        return avatar.generate_all({name: prompts[name] for name in names})

    with tqdm(total=len(prompts), unit="request", file=sys.stderr, desc="generating") as bar:
        for name, made in salvaged(make, prompts):
            with records.of(name):
                if isinstance(made, Exception):
                    raise made
                paths = video.write(records.out / name, avatar.finish(prompts[name], made),
                                    avatar.decoder, prompts[name], save_latents)
                records.keep(name, **_told(prompts[name]),
                             files=files.names_of(paths.values()))
            bar.update()


def _stream(avatar, records: Records, rows: int, *, format: str = "", **given: int) -> None:
    """Streams requests, those of one task at once."""
    config = generate.stream_settings(avatar.config, **given)
    settings = Settings(config.vocoder_block, config.vocoder_ahead)
    tasks: dict[str, dict[str, Prompt]] = {}
    for name, prompt in _prompts(avatar, records, config.chunk).items():
        tasks.setdefault(prompt.task, {})[name] = prompt
    for prompts in tasks.values():
        _stream_task(avatar, prompts, records, settings, rows, format)


def _stream_task(avatar, prompts: Mapping[str, Prompt], records: Records, settings: Settings,
                 rows: int, format: str) -> None:
    wanted = {name: targets.targets(str(records.out / name), format) for name in prompts}

    def make(names):
        return live_several.stream(
            avatar, {name: prompts[name] for name in names},
            {name: wanted[name] for name in names}, settings=settings, rows=rows)

    for name, report in salvaged(make, prompts):
        with records.of(name):
            if isinstance(report, Exception):
                for target in wanted[name]:
                    target.part.unlink(missing_ok=True)
                raise report
            paths = [pathlib.Path(file).name for file in report.pop("files").values()]
            records.keep(name, **_told(prompts[name]), stream=report,
                         **({"files": paths} if report["complete"] else {}))
