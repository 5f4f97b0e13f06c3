"""Where pieces of a dialogue meet: the pieces that would be made, and what each part is worth there
with and without what was said before."""

import json
import types

import jax
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.systems.api import build
from avjax.systems.tavid import mapper
from avjax.systems.tavid.text import objective
from avjax.systems.tavid.text.rows import END, FIRST, START
from eval.robustness import job
from eval.robustness.pieces.moved import Moved
from eval.robustness.pieces.said import Said, spoken
from eval.robustness.pieces.seams import seams
from eval.robustness.pieces.seams import text as text_of
from tests.systems.tavid_text_tiny import FILLER, dialogue, small

FRAMES, TOKENS = 80, 80  # of a row: pieces of 32 units, 39 ids


@pytest.fixture(scope="module")
def talk():
    return dialogue(seed=1, turns=6)


def test_a_seam_lies_between_turns_that_do_not_overlap(talk):
    turns = talk["turns"]
    main = turns[turns[:, 5] == 0]
    free = [k for k in range(1, len(main)) if main[k, START] >= turns[
        turns[:, FIRST] < main[k, FIRST], END].max() + 1]
    found = list(seams(turns, FRAMES, TOKENS))
    assert 0 < len(free) < len(main) - 1 and len(found) >= len(free)
    for seam in found:
        before, after = seam.turns
        assert before[:, END].max() <= seam.seam <= after[:, START].min()
        assert (seam.seam - seam.begin) % 2 == (seam.end - seam.seam) % 2 == 0
        assert seam.seam - seam.begin <= 32 and seam.end - seam.seam <= 32
        told, alone = (text_of(talk, seam, x, FILLER) for x in (True, False))
        np.testing.assert_array_equal(told.units[told.length:], alone.units)
        new = told.tokens[told.said:]
        new = new[np.argmax(told.token_speaker[told.said:] >= 0):]  # after the mark between
        np.testing.assert_array_equal(new, alone.tokens)
        assert told.times[-1] - told.length == pytest.approx(alone.times[-1])
        others = [t for t in turns.tolist()
                  if t not in before.tolist() and t not in after.tolist()]
        for who, _, _, start, end, _ in others:
            inside = told.units[max(start - seam.begin, 0):max(end - seam.begin, 0), who]
            assert (inside == FILLER).all(), "who is not in the pieces is silent"
    assert not list(seams(turns, 10, TOKENS)), "no turn fits"


def test_what_the_text_part_expects_after_all_that_was_said(talk):
    """Of a dialogue of two pieces: the same nats as in one row, and others where it is alone."""
    system = build(small(num_streams=2, row_frames=FRAMES, row_tokens=TOKENS))
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape, np.float32), shapes)
    said, c = Said(system, params, 0), system.config
    seam = next(seams(talk["turns"], FRAMES, TOKENS))
    one = text_of(talk, seam, True, FILLER)
    batch = {name: x[None] for name, x in said._row(one).items()}
    units_BIJ, _ = objective.targets(batch, c)
    _, logits = objective.read(system.net, params, batch, objective.before(units_BIJ, c), units_BIJ,
                               batch["tokens_length"], {})
    nats_TS = np.asarray(objective.entropy(logits, units_BIJ)).reshape(-1, 2)
    speaks_TS = seam.speaking()
    nats_TS = nats_TS[one.length:one.length + len(speaks_TS)]
    class Rows(list):
        ids = ["a"]

    said.look(Rows([talk]))
    assert said.silent_V[FILLER] and not said.silent_V[4:6].any()
    [told] = said.measured(talk, [seam], True)
    [alone] = said.measured(talk, [seam], False)
    assert told["others"] == pytest.approx(nats_TS[~speaks_TS].mean(), rel=1e-5)
    own = nats_TS[speaks_TS[:, seam.speaker], seam.speaker]
    assert told["first second"] == pytest.approx(own.mean(), rel=1e-5)  # turns are that short
    assert abs(alone["first second"] - told["first second"]) > 1e-3
    assert abs(alone["plan"] - told["plan"]) > 1e-3
    assert told["true gap"] == alone["true gap"]
    assert any(told[name] != alone[name] for name in ("gap", "edits", "likeness"))


def test_speech_is_what_lasts():
    units = np.full((30, 2), FILLER)
    units[3:6, 0] = units[10:16, 0] = units[20:, 1] = 5
    units[10:13, 1] = 1  # silence, too
    silent = np.isin(np.arange(9), (FILLER, 1))
    np.testing.assert_array_equal(np.flatnonzero(spoken(units, silent)[:, 0]), range(10, 16))
    np.testing.assert_array_equal(np.flatnonzero(spoken(units, silent)[:, 1]), range(20, 30))


def test_motion_that_needs_the_past_is_lost_alone(talk):
    """A mapper that moves as the units of two frames ago were: with what was heard it is as in one
    go, alone its first frames are wrong."""
    def generate(params, given, keys):
        units = np.pad(np.asarray(given["units"], np.float32), ((0, 0), (4, 0), (0, 0)))
        heard, length = np.asarray(given["heard"], np.float32), int(given["heard_length"][0])
        units[0, max(4 - length, 0):4] = heard[0, max(length - 4, 0):length]
        return {"motion": np.repeat(units[:, :-4:2, :, None], 8, -1)}

    one = Moved(types.SimpleNamespace(generate=generate), None, None)
    one._run = lambda params, given: generate(params, given, None)["motion"]
    frames = len(talk["units"]) // 2
    units = talk["units"][:2 * frames]
    motion = np.pad(units[::2], ((2, 0), (0, 0)))[:frames, :, None]
    example = talk | {"units": units, "motion": np.repeat(motion, 8, -1).astype(np.float32)}
    found = list(seams(talk["turns"], FRAMES, TOKENS))
    for told, alone, whole, true in zip(*(one.measured(example, found, x)
                                          for x in (True, False, None)),
                                        one.recorded(example, found), strict=True):
        for name in ("face", "head"):
            assert told[name] == whole[name] == true[name] == 0 < alone[name]
        assert told["jump"] == true["jump"]


def test_heads_that_rest_at_the_end_jump_where_no_silence_follows(talk):
    def run(params, given):
        left = np.arange(int(given["units_length"][0]) // 2)[::-1]
        return np.broadcast_to(np.minimum(left, 3)[None, :, None, None], (1, len(left), 2, 8))

    frames = len(talk["units"]) // 2
    example = talk | {"units": talk["units"][:2 * frames], "motion": np.zeros((frames, 2, 8))}
    found = list(seams(talk["turns"], FRAMES, TOKENS))
    for silence, jump in ((None, 3), (0, 0)):
        one = Moved(types.SimpleNamespace(generate=None), None, silence)
        one._run = run
        assert [x["jump"] for x in one.measured(example, found, True)] == [jump] * len(found)


@pytest.fixture
def subject(talk, tmp_path):
    """A corpus of three dialogues and a real mapper."""
    c = mapper.config.tiny()
    c.update(dict(num_units=9, d_model=16, num_blocks=1, num_heads=2, token_dim=8, unit_dim=8,
                  tokens=1, target_dim=9))
    system = build(c)
    rows = []
    for k in range(3):
        one = dialogue(seed=k, turns=6)
        frames = len(one["units"]) // 2
        motion = np.random.default_rng(k).standard_normal((frames, 2, 9)).astype(np.float32)
        rows.append(one | {"id": str(k), "units": one["units"][:2 * frames], "motion": motion})

    class Rows(list):
        ids = [row["id"] for row in rows]

    dataset = types.SimpleNamespace(
        features=dict.fromkeys(rows[0]), dir=tmp_path, splits=("valid",), checksums={"x": "1"},
        source=lambda split, fields: Rows(rows))
    from eval.robustness.subject import Subject
    return Subject(system, system.init(jax.random.key(0)), dataset,
                   types.SimpleNamespace(sound_by=""))


def test_tables_of_a_checkpoint(subject, tmp_path, monkeypatch):
    results = job.run("pieces", subject, tmp_path / "out", ("valid",), progress=False,
                      context=(FRAMES, TOKENS))
    (title, table), = results["tables"].items()
    assert title == "valid, mapper" and results["seams"]["valid"] >= 3
    assert list(table) == ["all said", "alone", "all said - alone", "in one go", "recorded"]
    for column in ("mapper: face", "mapper: jump"):
        both = [table[row][column]["value"] for row in ("all said", "alone")]
        assert table["all said - alone"][column]["value"] == pytest.approx(both[0] - both[1],
                                                                           abs=1e-9)
        assert table["all said"][column]["n"] == results["seams"]["valid"]
    assert table["all said"]["mapper: face"]["value"] == pytest.approx(
        table["in one go"]["mapper: face"]["value"], rel=0.05)
    assert table["recorded"]["mapper: face"]["value"] == 0
    written = json.loads((tmp_path / "out" / "robustness.pieces.json").read_text())
    assert written["seams"] == results["seams"]
    told = (tmp_path / "out" / "robustness.pieces.txt").read_text()
    assert "mapper: jump" in told.split("\n")[0] and "mapper: jump: " in told
    assert "text: gap" not in told, "of parts that are there"
    assert (tmp_path / "out" / "robustness.pieces.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="no seam to look at.*two fit into 12 units.*row_frames"):
        job.run("pieces", subject, tmp_path / "out", ("valid",), progress=False, context=(12, 9))
    monkeypatch.setattr(Moved, "measured", lambda *_: pytest.fail("all rows are there"))
    job.run("pieces", subject, tmp_path / "out", ("valid",), progress=False,
            context=(FRAMES, TOKENS))


def test_a_checkpoint_without_any_of_the_parts(subject, tmp_path):
    import dataclasses

    from avjax.systems.tavid import speaker
    other = dataclasses.replace(subject, system=build(speaker.config.tiny()))
    with pytest.raises(UserError, match="no part that is looked at here.*tavid.text"):
        job.run("pieces", other, tmp_path, ("valid",), progress=False)
