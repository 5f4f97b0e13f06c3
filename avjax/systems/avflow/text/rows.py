"""Training rows: one complete utterance each."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avjax.errors import UserError
from avjax.systems.api import Rows


def check_symbols(symbols, num_symbols: int, where: str) -> np.ndarray:
    """The ids (P,) int32; UserError for none, or for one that the network has no row for."""
    symbols = np.asarray(symbols)
    if not symbols.size:
        raise UserError("no symbols to speak", where=where, expected="at least one",
                        found="an empty list", hint="give text that is spoken")
    if not 0 <= symbols.min() <= symbols.max() < num_symbols:
        raise UserError("symbols outside the model's table", where=where,
                        expected=f"0 to {num_symbols - 1}",
                        found=f"{symbols.min()} to {symbols.max()}",
                        hint="set config.system.symbols to the table's size, or extract with "
                        "that table")
    return symbols.astype(np.int32)


@dataclasses.dataclass(frozen=True)
class TextRows(Rows):
    """Room for so many symbols and frames; a table of `num_symbols`; tokens of `token_dim`."""

    symbols: int
    frames: int
    num_symbols: int
    token_dim: int

    @property
    def capacity(self) -> dict[str, int]:
        """An utterance takes the whole row, of whatever length."""
        return {"symbols": self.symbols, "frames": self.frames, "utterances": 1}

    def cost(self, lengths: Mapping[str, int]) -> dict[str, int]:
        """See Rows.cost."""
        return {"symbols": lengths["symbols"], "frames": lengths["tokens"], "utterances": 1}

    def build(self, examples: Sequence[Mapping[str, Any]],
              rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One row of `System.batch_spec`; symbols are padded with the blank, tokens with zeros."""
        example = examples[0]
        where = f"example {example.get('id', '')!r}"
        symbols = check_symbols(example["symbols"], self.num_symbols, where)
        tokens = np.asarray(example["tokens"], np.float32)
        if tokens.ndim != 2 or tokens.shape[1] != self.token_dim:
            raise UserError("tokens of another width", where=where,
                            expected=f"(frames, {self.token_dim})", found=str(tokens.shape),
                            hint="set config.system.token_dim to the dataset's")
        if len(symbols) > len(tokens):
            raise UserError("more symbols than frames", where=where,
                            expected=f"at most {len(tokens)} symbols, one a frame at least",
                            found=str(len(symbols)),
                            hint="the text is not of this recording, or it is cut short: leave it "
                            "out of the dataset")
        if not np.isfinite(tokens).all():
            raise UserError("tokens that are not finite", where=where, expected="finite numbers",
                            found=f"{np.count_nonzero(~np.isfinite(tokens))} others",
                            hint="extract the dataset again")
        return {"symbols": np.pad(symbols, (0, self.symbols - len(symbols))),
                "symbols_length": np.int32(len(symbols)),
                "tokens": np.pad(tokens, ((0, self.frames - len(tokens)), (0, 0))),
                "tokens_length": np.int32(len(tokens))}
