"""Rows of the text-to-units System: pieces cut at turns, one speaker alone, views of a source, the
weight of silence."""

import jax
import numpy as np

from avjax.systems.api import build, example_batch
from avjax.systems.tavid.text import plan, rows
from tests.systems.tavid_text_tiny import FILLER, dialogue, small


def test_rows_are_pieces_cut_at_turns():
    """Whatever is drawn: text and units of the same turns, the others' words gone, both within the
    row."""
    c = small(single_share=0.0, piece_fill=0.5)
    builder, rng, seen = build(c).rows, np.random.default_rng(0), set()
    for seed in range(60):
        example = dialogue(seed % 7, turns=6)
        row = builder.build([example], rng)
        n, T = row["tokens_length"], row["units_length"]
        tokens, turns = example["tokens"], example["turns"]
        first = next(i for i in range(len(tokens)) if (tokens[i:i + n] == row["tokens"][:n]).all()
                     and (example["token_speaker"][i:i + n] == row["token_speaker"][:n]).all())
        inside = turns[(turns[:, 1] >= first) & (turns[:, 2] <= first + n)]
        assert first in turns[:, 1]
        assert first + n in turns[:, 2]
        assert 0 < n <= c.row_tokens
        assert 0 < T < c.row_frames
        said = row["units"][:T] != FILLER
        # every frame of the piece's turns and no other
        shift = round(float(plan.token_times(example["token_speaker"],
                                             turns)[first] - row["times"][0]))
        expected = np.zeros_like(said)
        for who, _, _, start, end, _ in inside:
            expected[start - shift:end - shift, who] = True
        np.testing.assert_array_equal(said, expected)
        np.testing.assert_allclose(row["times"][:n],
                                   plan.token_times(example["token_speaker"],
                                                    turns)[first:first + n] - shift)
        assert row["weight"][T].all() and not row["weight"][T
                                                            + 1:].any() and (
                                                                row["weight"][:T] > 0).all()
        seen.add((len(inside), shift))
    assert len(seen) > 15
    wanted = example_batch(build(c), batch=1, time=0)
    assert {k: (v.shape, v.dtype) for k, v in row.items()} == {k: (v.shape[1:], v.dtype) for k,
                                                               v in wanted.items()}


def test_rows_of_one_speaker_and_turns_longer_than_a_row():
    builder, rng = build(small(single_share=1.0)).rows, np.random.default_rng(1)
    speakers = set()
    for seed in range(20):
        row = builder.build([dialogue(seed, turns=5)], rng)
        n, T = row["tokens_length"], row["units_length"]
        (who,) = set(row["token_speaker"][:n])
        speakers.add(who)
        units, other = row["units"][:T, who], row["units"][:T, 1 - who]
        assert (other == FILLER).all() and set(units) <= {FILLER,
                                                          4 + who} and (units != FILLER).sum() >= 6
        assert (np.diff(row["times"][:n]) > 0).all()
        assert 0 <= row["times"][0]
        assert row["times"][n - 1] < T
        spoken = row["units"][row["times"][:n].astype(int), who]  # a token's time lies in its turn
        assert (spoken == 4 + who).all()
    assert speakers == {0, 1}
    long = build(small(row_frames=8, row_tokens=6, single_share=0.5)).rows
    for seed in range(10):
        row = long.build([dialogue(seed, turns=2)], rng)
        assert row["units_length"] <= 7 and 1 <= row["tokens_length"] <= 6
        assert (row["times"][1:row["tokens_length"]] < row["units_length"]).all()


def test_sources_seen_as_one_stream_or_as_dialogues():
    every, rng = build(small(single_share=0.5)).rows, np.random.default_rng(1)
    assert every.views == ("dialogue", "first", "second")
    for seed in range(12):
        row = every.view("dialogue").build([dialogue(seed)], rng)
        assert set(row["token_speaker"][:row["tokens_length"]]) >= {0, 1}
        for stream, name in enumerate(("first", "second")):
            view = every.view(name)
            assert view.one_speaker and not every.one_speaker
            row = view.build([dialogue(seed)], rng)
            n, T = row["tokens_length"], row["units_length"]
            assert set(row["token_speaker"][:n]) == {stream}
            assert (row["units"][:T, 1 - stream] == FILLER).all()
            assert set(row["units"][:T, stream]) == {FILLER, 4 + stream}


def test_a_recording_of_one_speaker_is_seen_as_either():
    """Its marks become the other speaker's, whose id is the next; words of that id stay."""
    every, rng = build(small()).rows, np.random.default_rng(1)
    mark, units = 15, np.full((20, 1), FILLER, np.int32)
    units[3:9] = 7
    one = {"id": "a", "tokens": np.array([mark, 16, 11, mark, 16], np.int32),
           "token_speaker": np.array([0, 0, 0, 0, -1], np.int32), "units": units,
           "turns": np.array([[0, 0, 5, 3, 9, 0]], np.int32)}
    first, second = (every.view(name).build([one], rng) for name in ("first", "second"))
    assert first["tokens"][:4].tolist() == [15, 16, 11, 15]
    assert second["tokens"][:4].tolist() == [16, 16, 11, 16]
    for stream, row in enumerate((first, second)):
        spoken = row["units"][:row["units_length"]] == 7
        assert spoken[:, stream].sum() == 6 and not spoken[:, 1 - stream].any()
        assert set(row["token_speaker"][:row["tokens_length"]]) == {stream}
    assert one["tokens"][0] == mark and one["turns"][0, 0] == 0  # what was read is not changed


def test_long_silence_counts_less_and_the_filler_is_counted():
    units = np.array([[3, 5], [3, 3], [3, 3], [1, 5], [3, 5], [3, 5], [1, 5], [3, 5], [3, 5],
                      [3, 5]])
    weights = rows.filler_weights(units, filler=3, longest=2, weight=0.2)
    np.testing.assert_allclose(weights[:, 0], [0.2] * 3 + [1] * 4 + [0.2] * 3, rtol=1e-6)
    assert (weights[:, 1] == 1).all()
    example = dialogue()
    assert rows.count_filler(example["units"], example["turns"]) == FILLER
    assert rows.count_filler(np.array([[7], [7], [2]]), np.array([[0, 0, 1, 0, 3, 0]])) == 7
    builders = [build(small(filler=f, filler_seconds=0.1)).rows for f in (-1, FILLER)]
    a, b = (builder.build([example], np.random.default_rng(0)) for builder in builders)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert (a["weight"] == np.float32(0.2)).any()
