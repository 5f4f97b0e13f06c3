"""Talker-T2AV: utterances in pieces, and several at once: each is what it is alone, and a piece
goes on from the one before it."""

import jax
import numpy as np
import pytest

from avjax.inference.generator import Generator, Item, Speech
from avjax.inference.keys import example_keys
from avjax.inference.progress import Progress
from avjax.systems.talker import sampler
from avjax.systems.talker.config import MAKES
from tests.systems import test_talker_sampler as talker

CONTEXT, BOUND = 4, 12  # frames


@pytest.fixture(scope="module")
def model():
    """(system, parameters) whose utterances end at different places, some at their bound."""
    system, params = talker.tiny()
    return system, params | {"stop_out": jax.tree.map(lambda a: 4 * a, params["stop_out"])}


def pieces_of(system, count: int, seed: int):
    rng, c = np.random.default_rng(seed), system.config
    one = {"speaker": rng.standard_normal(c.speaker_dim).astype(np.float32),
           "first_motion": rng.standard_normal(c.motion_dim).astype(np.float32),
           "audio": np.zeros((0, c.audio_dim)), "motion": np.zeros((0, c.motion_dim))}
    return [one | {"prompt": rng.integers(0, c.vocab, n).astype(np.int32),
                   "prompt_length": np.int32(n), "audio_length": np.int32(k and CONTEXT),
                   "motion_length": np.int32(k and CONTEXT)}
            for k, n in enumerate(rng.integers(2, 7, count))]


def joined(system, chunks):
    return Progress(system, iter(chunks)).result


def made(model, speeches, rows, task="t2av"):
    """{name: result} and the order of the chunks."""
    system, params = model
    chunks, order = {}, []
    generator = Generator(system, seed=1)
    for number, chunk in generator.stream_several(params, speeches, task, rows=rows):
        order.append((number, chunk is None))
        if chunk is not None:
            chunks.setdefault(speeches[number].name, []).append(chunk)
    return {name: joined(system, parts) for name, parts in chunks.items()}, order


@pytest.fixture(scope="module")
def speeches(model):
    return [Speech(name, pieces_of(model[0], count, seed), [bound] * count, True)
            for seed, (name, count, bound) in enumerate((
                ("a", 3, BOUND), ("b", 1, BOUND), ("c", 2, 8), ("d", 2, BOUND)))]


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-5, rtol=2e-4, err_msg=name)


def test_several_at_once_are_each_alone(model, speeches):
    together, order = made(model, speeches, 2)
    assert [n for n, over in order if over] != [0, 1, 2, 3], "the next begins when one has ended"
    assert {n for n, _ in order[:4]} == {0, 1}, "two at a time"
    system, params = model
    for one in speeches:
        alone, _ = made(model, [one], 1)
        lengths = alone[one.name]["pieces"][0]
        assert len(lengths) == len(one.pieces) and (lengths > 0).all()
        assert lengths.sum() == alone[one.name]["audio_length"][0] == len(
            alone[one.name]["audio"][0])
        same({n: x for n, x in together[one.name].items() if n != "stop"},
             {n: x for n, x in alone[one.name].items() if n != "stop"})
    assert together["c"]["audio_length"] <= 8 + 8 - CONTEXT, "each under its own bound"
    # in one piece: what `generate` makes
    one = speeches[1]
    item = Item(one.name, lambda: (one.pieces[0], one.frames[0]), True)
    [(_, out, _)] = Generator(system, seed=1).batches(params, [item], "t2av")
    length = out["audio_length"][0]
    assert together["b"]["audio_length"][0] == length
    np.testing.assert_allclose(together["b"]["audio"][0], out["audio"][0, :length], atol=2e-5)


@pytest.mark.parametrize("task", ["t2av", "tts"])
def test_a_piece_goes_on_from_the_last_frames_before_it(model, speeches, task):
    """It is what `generate` makes of them as a prefix, with the noise of its own number, but that
    the first motion frame stays the first piece's."""
    system, params = model
    one = speeches[0]
    progress = Generator(system, seed=1).stream(params, one.pieces, one.name, task,
                                                frames=one.frames, bounded=True)
    out = progress.result
    frames = out["pieces"][0]
    bounds = BOUND - np.array([0, CONTEXT, CONTEXT])
    assert (frames <= bounds).all() and out["unended"][0] <= (frames == bounds).sum()
    first, end = one.pieces[0]["first_motion"], frames[0]
    key = jax.vmap(jax.random.fold_in, (0, None))(example_keys(1, [one.name]), 1)
    given = {name: out[name][:, end - CONTEXT:end] for name in MAKES[task]}
    conditions = {n: np.asarray(x)[None] for n, x in one.pieces[1].items()}
    for name in ("audio", "motion"):
        width = conditions[name].shape[-1]
        array = np.zeros((1, BOUND, width), np.float32)
        array[:, :CONTEXT] = given.get(name, 0)
        conditions[name] = array
    expected = jax.device_get(jax.jit(
        lambda params, conditions, key: keeping_first(system, params, conditions, key, task,
                                                      first))(params, conditions, key))
    length = int(expected["audio_length"][0])
    assert length - CONTEXT == frames[1]
    for name in MAKES[task]:
        np.testing.assert_allclose(out[name][0, end:end + frames[1]],
                                   expected[name][0, CONTEXT:length], atol=2e-5, rtol=2e-4)


def keeping_first(system, params, conditions, key, task, first):
    """`generate`, with the first motion frame that is given."""
    noise = sampler.draw(system, key, sampler.patches(system, conditions, task))
    ready, given, state = sampler.start(system, params, conditions, task, noise)
    if task != "tts":
        given["globals"]["motion"] = first[None]
    state = jax.lax.while_loop(lambda s: ~sampler.finished(s).all(),
                               lambda s: sampler.advance(system, ready, given, s, task), state)
    return sampler.streams(system, given, state, task)
