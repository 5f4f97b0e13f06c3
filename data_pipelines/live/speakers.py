"""Sound and pictures of all who speak, as packets that can be written at once."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines import decode
from data_pipelines.live import parts
from data_pipelines.prompting import Prompt


@dataclasses.dataclass
class Packet:
    """What is written at once: mixed samples (N,) and the pictures until their end."""

    sound_N: np.ndarray
    pictures: list[np.ndarray]


class Speakers:
    """All speakers of a prompt: the streams of a chunk in, a packet out. Their sound is mixed,
    their pictures stand side by side, or are those of the film that is dubbed; a picture leaves
    when the sound until its end has left, so that a film of them is one at any time.

    Args:
      decoder: of the workdir.
      prompt: whose faces are drawn, or what is shown instead.
      settings: of the vocoder.
      draws: whether pictures are wanted.

    Attributes:
      fps: pictures a second.
    """

    def __init__(self, decoder: decode.Decoder, prompt: Prompt, settings: parts.Settings,
                 draws: bool):
        self._decoder, self._rate, self.fps = decoder, decoder.sample_rate, decoder.fps
        self._film: Iterator[np.ndarray] | None = None
        if draws and prompt.shown:
            self.fps, self._film = prompt.shown()
            draws = False
        count = max(1, len(prompt.speakers))
        self._sounds = [parts.Sound(decoder, settings) for _ in range(count)]
        paints = decoder.family.paints_on(prompt.given)
        several = prompt.speakers and prompt.identity is not None
        self._drawn = [parts.Pictures(decoder, prompt.speaker, identity,
                                      prompt.given if paints else None)
                       for identity in (prompt.identity if several else [prompt.identity] * count)
                       ] if draws and (decoder.draws or paints) else []
        self._waiting_N = [np.zeros(0, np.float32)] * count  # samples that others have not yet
        self._waiting: list[list[np.ndarray]] = [[] for _ in self._drawn]
        self._heard = self._seen = 0
        self._last: np.ndarray | None = None

    @property
    def look_ahead(self) -> dict[str, tuple[parts.Part, ...]]:
        sound = {"sound": self._sounds[0].look_ahead}
        return sound | ({"pictures": self._drawn[0].look_ahead} if self._drawn else {})

    def compile(self) -> None:
        """What sound takes."""
        self._sounds[0].compile()

    def feed(self, streams: decode.Streams) -> Packet:
        """The streams of a chunk, without batch axis."""
        apart = self._decoder.speakers(streams)
        if len(apart) != len(self._sounds):  # nothing of any speaker
            apart = [{} for _ in self._sounds]
        return self._packet([s.feed(x) for s, x in zip(self._sounds, apart, strict=True)],
                            [list(p.feed(x)) for p, x in zip(self._drawn, apart, strict=False)])

    def finish(self) -> Packet:
        """The rest. As offline, pictures last as long as the sound: the last one is held."""
        packet = self._packet([s.finish() for s in self._sounds],
                              [list(p.finish()) for p in self._drawn])
        if self._last is not None:
            missing = max(1, round(self._heard / self._rate * self.fps)) - self._seen
            packet.pictures += [self._last] * missing
        return packet

    def _packet(self, sounds: Sequence[np.ndarray], drawn: Sequence[list]) -> Packet:
        self._waiting_N = [np.concatenate(pair) for pair in zip(self._waiting_N, sounds,
                                                                strict=True)]
        count = min(map(len, self._waiting_N))
        mix_N = np.sum([x[:count] for x in self._waiting_N], axis=0, dtype=np.float32)
        self._waiting_N = [x[count:] for x in self._waiting_N]
        self._heard += count
        for waiting, new in zip(self._waiting, drawn, strict=True):
            waiting += new
        due = round(self._heard / self._rate * self.fps) - self._seen
        if self._film:
            pictures = list(itertools.islice(self._film, due))
        else:
            ready = min([due, *map(len, self._waiting)]) if drawn else 0
            pictures = [np.concatenate([w[k] for w in self._waiting], axis=1)
                        for k in range(ready)]
            for waiting in self._waiting:
                del waiting[:ready]
        self._seen += len(pictures)
        self._last = pictures[-1] if pictures else self._last
        return Packet(np.clip(mix_N, -1.0, 1.0), pictures)
