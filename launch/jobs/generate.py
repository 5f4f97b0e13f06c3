"""Generation with a trained avatar: one request (launch/jobs/requests has files of them)."""

import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from avjax.checkpoint import checkpoints
from avjax.errors import UserError
from avjax.inference.generator import Generator, Item, Speech
from avjax.inference.progress import Progress
from avjax.storage import records
from avjax.systems import api
from configs import base
from data_pipelines import decode, prompting
from data_pipelines.features.common import text_to_tokens
from data_pipelines.live.parts import Settings
from data_pipelines.prompting import Prompt
from launch import data, schema
from launch import flags as launch_flags
from launch.jobs import live, targets, video
from launch.jobs.requests import files

ITERATIONS = 60  # of Griffin-Lim, where sound is kept
Streams = dict[str, np.ndarray]


class Avatar:
    """A trained system with what it takes to generate and to decode.

    Args:
      workdir: folder of a training job.
      seed: of the noise.
      step: of the checkpoint; None = the last.
      steps, guidance, temperature: instead of the config's, where given.
      vocoder: what makes the sound, see `decode.Decoder`; default WORKDIR/vocoder, if it is there.
      geometry: of a Codec Avatar, see `decode.Decoder`.
      length_scale, token_temperature: of text to tokens, by this system or by WORKDIR/text.
      batch_size: requests at a time.
      mesh: shares the batches among devices; None = one device.

    Raises UserError for folders that hold nothing that speaks.
    """

    def __init__(self, workdir, *, seed: int = 0, step: int | None = None, steps: int = 0,
                 guidance: float | None = None, temperature: float | None = None,
                 vocoder: str = "", geometry: str = "", length_scale: float | None = None,
                 token_temperature: float | None = None, batch_size: int = 1, mesh=None):
        self.workdir = pathlib.Path(workdir)
        self._step = step
        self.config = load_config(self.workdir)
        self.builder = prompting.builder(self.config.system.name, str(self.workdir))
        text = (text_to_tokens.in_workdir(self.workdir)
                if prompting.LANGUAGE in self.builder.TAKES else None)
        of_text = {"length_scale": length_scale, "token_temperature": token_temperature}
        change(self.config.system, self.builder.SETTINGS,
               {"steps": steps or None, "guidance": guidance, "temperature": temperature}
               | ({} if text else of_text))
        self.system = api.build(self.config.system)
        self.decoder = decode.Decoder.from_workdir(self.workdir, iterations=ITERATIONS,
                                                   vocoder=vocoder, geometry=geometry)
        if text:
            self.decoder.text_to_tokens = text_to_tokens.TextToTokens(
                text, self.decoder.recipes["tokens"], seed=seed, length_scale=length_scale,
                temperature=token_temperature)
        self.generator = Generator(self.system, seed=seed, batch_size=batch_size, mesh=mesh)
        self._params = None

    @property
    def params(self):
        """Read when the first request turned out to be usable."""
        if self._params is None:
            self._params = checkpoints.load_params(self.workdir, self.system, step=self._step)
        return self._params

    def prompt(self, **request: Any) -> Prompt:
        """What a request means. UserError for whatever is unusable."""
        return prompt_of(self.config, self.system, self.decoder, **request)

    def generate(self, prompt: Prompt) -> Streams:
        """The streams of one prompt, with progress where it takes steps."""
        [(_, out)] = self.generate_all({"": prompt})
        return self.finish(prompt, out)

    def generate_all(self, prompts: Mapping[str, Prompt]) -> Iterator[tuple[str, Streams]]:
        """Yields (id, what `finish` takes) for {id: prompt}, in batches where the system allows
        it."""
        batches: dict[str, list] = {}
        long: dict[str, dict] = {}
        for name, prompt in prompts.items():
            if not self._in_steps(prompt):
                batches.setdefault(prompt.task, []).append((name, prompt))
            elif len(prompts) > 1 and self.system.steps(prompt.task) is None:
                long.setdefault(prompt.task, {})[name] = prompt
            else:
                yield name, self._in_pieces(prompt)
        for members in long.values():
            yield from self._long(members)
        for task, members in batches.items():
            numbers = {str(k): member for k, member in enumerate(members)}
            items = (item_of(prompt, tag=k) for k, (_, prompt) in numbers.items())
            for tag, out, _ in self.generator.batches(self.params, items, task):
                yield numbers[tag][0], out

    def _long(self, prompts: Mapping[str, Prompt]) -> Iterator[tuple[str, Streams]]:
        """`generate_all` of prompts of one task that are made in pieces, several at once."""
        made: dict[str, list] = {}
        for name, chunk in self.stream_several(prompts):
            if chunk is not None:
                made.setdefault(name, []).append(chunk)
            else:
                yield name, Progress(self.system, iter(made.pop(name))).result

    def stream_several(self, prompts: Mapping[str, Prompt], rows: int = 0):
        """(id, chunk) of prompts of one task, see `Generator.stream_several`."""
        names = list(prompts)
        [task] = {prompt.task for prompt in prompts.values()}
        speeches = [Speech(p.name, p.pieces, _frames(p), p.bounded) for p in prompts.values()]
        made = self.generator.stream_several(self.params, speeches, task, rows=rows)
        return ((names[number], chunk) for number, chunk in made)

    def finish(self, prompt: Prompt, out: Mapping[str, np.ndarray]) -> Streams:
        """The real frames of what was generated as a batch of one; says what the user should
        know."""
        say(self.builder.remarks(prompt, out, self.system))
        return dict(prompt.given) | self.generator.streams(prompt.name, out, prompt.frames)

    def _in_steps(self, prompt: Prompt) -> bool:
        return self.system.can_stream(prompt.task) and (
            len(prompt.pieces) > 1 or self.system.steps(prompt.task) is not None)

    def progress(self, prompt: Prompt, *, keep: bool = True) -> Progress:
        """The chunks of one prompt as they are made."""
        return self.generator.stream(self.params, prompt.pieces, prompt.name, prompt.task,
                                     frames=_frames(prompt), bounded=prompt.bounded, keep=keep)

    def _in_pieces(self, prompt: Prompt):
        """With a bar that moves by the seconds made."""
        progress = self.progress(prompt)
        count = len(prompt.pieces)
        with tqdm(total=prompt.seconds, unit="s", file=sys.stderr,
                  desc=prompt.task + (f", {count} pieces" if count > 1 else ""),
                  bar_format="{desc} {bar} {n:.1f} of about {total:.0f} s made in {elapsed}"
                  ) as bar:
            for chunk in progress:
                bar.total = max(bar.total, chunk.seconds)
                bar.update(chunk.seconds - bar.n)
            bar.total = progress.seconds
            bar.refresh()
        return progress.result


def _frames(prompt: Prompt) -> list[int]:
    """Room for each piece, where the prompt and not the conditions' lengths say it."""
    own = len(prompt.pieces) == 1 or prompt.bounded
    return [prompt.frames] * len(prompt.pieces) if own else []


def item_of(prompt: Prompt, tag: str = "") -> Item:
    """What the generator needs of a prompt of one piece. `tag` comes back with the result."""
    return Item(prompt.name, lambda: (prompt.conditions, prompt.frames), prompt.bounded,
                tag or prompt.name)


def generate(workdir, *, out=None, seed: int = 0, step: int | None = None, steps: int = 0,
             guidance: float | None = None, temperature: float | None = None, vocoder: str = "",
             geometry: str = "", length_scale: float | None = None,
             token_temperature: float | None = None, save_latents: bool = False,
             **request) -> dict[str, pathlib.Path]:
    """Speaks one sentence, or a dialogue. Returns the files written, see `video.write`; OUT.json,
    written when all of them are there, says what they were made from, as that of a file of requests
    does (launch/jobs/requests).

    Args:
      out: path without extension; default WORKDIR/sample.
      save_latents: write the streams too, as OUT.npz.
      request: inputs that the system takes, see its `PromptBuilder.TAKES`.
      seed, step, steps, guidance, temperature, vocoder, geometry, length_scale, token_temperature:
        see `Avatar`.

    Raises UserError for unusable input, and for folders that hold nothing that speaks.
    """
    settings = dict(seed=seed, step=step, steps=steps, guidance=guidance, temperature=temperature,
                    vocoder=vocoder, geometry=geometry, length_scale=length_scale,
                    token_temperature=token_temperature)
    avatar, out = Avatar(workdir, **settings), pathlib.Path(out or pathlib.Path(workdir) / "sample")
    prompt = avatar.prompt(**request)
    say(prompt.remarks)
    streams = avatar.generate(prompt)
    if avatar.decoder.has_audio(streams):
        say([f"sound by {avatar.decoder.sound_by}"])
    paths = video.write(out, streams, avatar.decoder, prompt, save_latents)
    files.keep(out.parent, out.name, {name: value for name, value in request.items() if value},
               files.settings_of(workdir, settings), files=files.names_of(paths.values()))
    return paths


def stream(workdir, wanted: Sequence[targets.Target], *, seed: int = 0, step: int | None = None,
           steps: int = 0, guidance: float | None = None, temperature: float | None = None,
           vocoder: str = "", length_scale: float | None = None,
           token_temperature: float | None = None, chunk: int = -1, vocoder_block: int = -1,
           vocoder_ahead: int = -1,
           stdout: int | None = None, **request) -> dict:
    """`generate`, written while it is made; see launch.jobs.live.stream. Returns its results, which
    are kept as OUT.json of the first file, or WORKDIR/stream.json of a pipe.

    Args:
      wanted: where, and in which formats.
      chunk, vocoder_block, vocoder_ahead: instead of config.stream's, where not negative.
      stdout: descriptor of standard output, where a target is that.
    """
    avatar = Avatar(workdir, seed=seed, step=step, steps=steps, guidance=guidance,
                    temperature=temperature, vocoder=vocoder, length_scale=length_scale,
                    token_temperature=token_temperature)
    settings = stream_settings(avatar.config, chunk=chunk, vocoder_block=vocoder_block,
                               vocoder_ahead=vocoder_ahead)
    prompt = avatar.prompt(**request)
    say(prompt.remarks)
    file = wanted[0].path if wanted[0].grows else avatar.workdir / "stream.json"
    return live.stream(avatar, prompt, wanted, file.with_suffix(".json"), chunk=settings.chunk,
                       settings=Settings(settings.vocoder_block, settings.vocoder_ahead),
                       stdout=stdout)


def stream_settings(config, **given: int) -> ConfigDict:
    """config.stream, with what is given instead where that is not negative."""
    settings = base.Stream.make()
    settings.update(config.get("stream", {}))  # older jobs know none
    settings.update({name: value for name, value in given.items() if value >= 0})
    base.Stream.check(settings)
    return settings


def prompt_of(config, system, decoder, **request: Any) -> Prompt:
    """What a request means to a system; reads the files that it names and generates nothing.
    UserError for whatever is unusable."""
    builder = prompting.builder(config.system.name)
    if (request.get("example") or request.get("partner")) and not request.get("data"):
        request["data"] = data.main_folder(config.data)
    return builder.build(builder.request(config.system.name, **request), system, decoder)


def change(settings, fields: Mapping[str, Iterable[str]], values: dict) -> None:
    """Sets what was given of the sampler's settings. UserError for one that the system does not
    have."""
    for flag, value in values.items():
        if value is not None:
            if flag not in fields:
                raise UserError(f"{settings.name} has no {flag}", where=f"--{flag}",
                                hint="leave it out")
            settings.update_from_flattened_dict(dict.fromkeys(fields[flag], value))


def say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def load_config(workdir: pathlib.Path) -> ConfigDict:
    """The config that a job recorded in its workdir, with the defaults of fields that came after
    it. UserError: there is none, or it is damaged."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError("no trained system here", where=str(workdir),
                        expected="a folder with config.json", found="nothing of the kind",
                        hint=f"train first: avjax train --config=configs/... "
                        f"--workdir={workdir}")
    config = ConfigDict(schema.completed(records.read_json(path)))
    for name in data.FIELDS:
        config.data[name] = launch_flags.fill(config.data[name], workdir)
    # of an older job, whose workdir was moved since
    if config.data.dir and not pathlib.Path(config.data.dir).exists():
        parts = pathlib.PurePath(config.data.dir).parts[1:]
        inside = [workdir.joinpath(*parts[k:]) for k in range(len(parts))]
        config.data.dir = str(next((p for p in inside if p.is_dir()), config.data.dir))
    return config
