"""Examples that fail are listed with their reason and tried again; the others are scored."""

import json
import pathlib

import jax.numpy as jnp
import pytest
from pyarrow import parquet

from avjax.errors import StorageError, UserError
from avjax.inference.generator import Generator
from eval.run import failed, flat, media, ranked, rows, runner
from tests.eval import toys

BAD = "valid/2"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return toys.write_corpus(tmp_path_factory.mktemp("corpus") / "features")


class Fragile(toys.System):
    """Diverges on the example whose tokens begin with `poison`."""

    def __init__(self, poison):
        super().__init__()
        self.poison = poison

    def generate(self, params, conditions, keys, task=""):
        made = super().generate(params, conditions, keys, task)
        bad = conditions["tokens"][:, 0, 0] == self.poison
        return made | {"mel": jnp.where(bad[:, None, None], jnp.nan, made["mel"])}


def first_token(dataset, name):
    source = dataset.source("valid", ("tokens",))
    return float(source[source.ids.index(name)]["tokens"][0, 0])


def scores(dataset, out, system=None, **run):
    system = system or toys.System()
    sampler = Generator(system, batch_size=4, seed=0)
    return toys.evaluate(toys.benchmark(dataset, full=False), sampler,
                         toys.System().init(None) | {"noise": jnp.float32(0.3)}, out,
                         splits=("valid",), progress=False, **run)


def test_one_diverges_and_the_others_are_as_without_it(dataset, tmp_path):
    whole = scores(dataset, tmp_path / "whole")
    found = scores(dataset, tmp_path / "part", Fragile(first_token(dataset, BAD)))
    (entry,) = found["failed"]
    assert (entry["split"], entry["id"], entry["variant"]) == ("valid", BAD, "model")
    assert "not finite" in entry["reason"] and "\n" not in entry["reason"]
    assert found["summary"]["valid"]["model"]["mel_L1"]["n"] == 5
    assert found["summary"]["valid"]["truth"] == whole["summary"]["valid"]["truth"]
    for row, other in zip(found["rows"], whole["rows"], strict=True):
        if row["id"] == BAD:
            assert "model" not in row and row["truth"] == other["truth"]
        else:
            assert row["model"]["mel_L1"] == pytest.approx(other["model"]["mel_L1"], rel=1e-5)
    (line,) = failed.lines(found)
    assert line.startswith(f"failed, valid: {BAD} (model): the model generated")
    assert not whole["failed"] and not failed.lines(whole)


def test_the_next_run_tries_again_and_nothing_else(dataset, tmp_path, monkeypatch):
    score, broken = toys.Benchmark.score, [BAD]

    def breaks(self, split, index, signals):
        if self.source(split).ids[index] in broken:
            raise ValueError("no lips\nin this picture")
        return score(self, split, index, signals)

    monkeypatch.setattr(toys.Benchmark, "score", breaks)
    first = scores(dataset, tmp_path)
    assert [f["variant"] for f in first["failed"]] == ["model", "truth", "shuffled", "mean"]
    assert {f["reason"] for f in first["failed"]} == {"ValueError: no lips"}
    assert BAD not in [row["id"] for row in first["rows"]]
    lines = [json.loads(x) for x in (tmp_path / rows.ROWS_FILE).read_text().splitlines()]
    assert "in breaks" in next(x for x in lines if "failed" in x)["traceback"]
    broken.clear()
    second = scores(dataset, tmp_path)
    assert not second["failed"] and len(second["rows"]) == 6
    added = (tmp_path / rows.ROWS_FILE).read_text().splitlines()[len(lines):]
    assert len(added) == 4 and all(BAD in x for x in added)


def test_failures_of_another_share_are_merged(dataset, tmp_path):
    system = Fragile(first_token(dataset, BAD))  # the third of six: of the first share
    assert scores(dataset, tmp_path, system, share=(0, 2)) is None
    found = scores(dataset, tmp_path, system, share=(1, 2))
    assert [f["id"] for f in found["failed"]] == [BAD] and len(found["rows"]) == 6


def test_an_unreadable_clip_fails_and_the_others_are_scored(tmp_path, monkeypatch):
    """Its bytes are damaged on disk; those that are compared with it fail in that variant alone."""
    dataset = toys.write_corpus(tmp_path / "features")
    shard = next(pathlib.Path(dataset.dir).glob("*valid*"))
    raw = bytearray(shard.read_bytes())
    needle = BAD.encode()
    at = raw.find(needle)
    assert at > 0
    raw[at - 200:at - 100] = bytes(100)
    shard.write_bytes(raw)
    found = scores(dataset, tmp_path / "out")
    lost = {f["id"] for f in found["failed"] if f["variant"] == "model"}
    assert lost == {f["id"] for f in found["failed"] if f["variant"] == "truth"} and len(lost) == 1
    assert len(found["rows"]) == 5 and found["summary"]["valid"]["model"]["mel_L1"]["n"] == 5


def test_what_is_no_matter_of_an_example_is_raised(dataset, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(toys.Benchmark, "score", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # every one fails
            scores(dataset, tmp_path / "a")
        assert not (tmp_path / "a" / runner.RESULTS_FILE).exists()
        patch.setattr(toys.Benchmark, "score", lambda *_: (_ for _ in ()).throw(
            OSError(28, "No space left on device")))
        with pytest.raises(StorageError, match="disk is full"):
            scores(dataset, tmp_path / "b")
    monkeypatch.setattr(toys.Benchmark, "select", lambda *_: [])
    with pytest.raises(UserError, match="no example to score.*valid"):
        scores(dataset, tmp_path / "c")


def test_media_of_models_and_truth_are_kept_and_made_again_where_lost(dataset, tmp_path,
                                                                      monkeypatch):
    scores(dataset, tmp_path)  # rows without media
    found = scores(dataset, tmp_path, keep_media=True)
    row = next(row for row in found["rows"] if row["id"] == BAD)
    assert row["media"]["model"] == ["media/valid/model/valid%2F2.wav",
                                     "media/valid/model/valid%2F2.mp4"]
    kept = sorted(p.relative_to(tmp_path).as_posix() for p in (tmp_path / "media").rglob("*.*"))
    assert len(kept) == 2 * 6 * 2
    (tmp_path / kept[0]).write_bytes(b"cut")
    (tmp_path / kept[-1]).unlink()
    keep, again = media.keep, []
    monkeypatch.setattr(media, "keep", lambda *args: again.append(args[2:5]) or keep(*args))
    scores(dataset, tmp_path, keep_media=True)
    assert len(again) == 2 and (tmp_path / kept[0]).stat().st_size > 100
    assert scores(dataset, tmp_path, keep_media=True)["rows"] == found["rows"] and len(again) == 2


def test_the_flat_table_is_read_back(dataset, tmp_path):
    found = scores(dataset, tmp_path, Fragile(first_token(dataset, BAD)))
    table = parquet.read_table(tmp_path / flat.FILE).to_pylist()
    assert len(table) == 6 * 4
    for line in table:
        row = next(row for row in found["rows"] if row["id"] == line["id"])
        if line["failed"]:
            assert (line["id"], line["variant"], line["mel_L1"]) == (BAD, "model", None)
        else:
            own = row[line["variant"]]
            assert line["mel_L1"] == own["mel_L1"] and json.loads(line["lips"]) == own["lips"]
            assert line["text"] == row["text"]
    assert sum(line["failed"] is not None for line in table) == 1


def test_best_median_and_worst(dataset, tmp_path):
    found = scores(dataset, tmp_path, ranked_by="mel_L1")
    order = sorted((row["model"]["mel_L1"], row["id"]) for row in found["rows"])
    expected = {"best": order[0][1], "median": order[2][1], "worst": order[5][1]}
    assert found["ranked"] == {"metric": "mel_L1", "examples": {"valid": {"model": expected}}}
    assert ranked.lines(found) == ["by mel_L1, valid, model: " + ", ".join(
        f"{place} {name}" for place, name in expected.items())]
    assert ranked.ranked(found, "", "valid", "nobody") == {}
    for name, hint in (("mel_L", "--ranked_by=mel_L1"), ("F1_lips", "")):
        with pytest.raises(UserError, match=f"no metric to rank.*{name}.*{hint}"):
            scores(dataset, tmp_path, ranked_by=name)


def test_nearer_to_its_own_truth_is_better():
    numbers = {"a": (0.5, 0.9), "b": (0.1, 0.2), "c": (None, 0.2), "d": (0.3, 0.1)}
    results = {"models": ["model"], "summary": {"valid": {}},
               "rows": [{"split": "valid", "id": name, "model": {"AV_correlation": own},
                         "truth": {"AV_correlation": true}}
                        for name, (own, true) in numbers.items()]}
    assert ranked.by_default(results) == "AV_correlation"
    assert ranked.ranked(results, "", "valid", "model") == {"best": "b", "median": "d",
                                                            "worst": "a"}
    assert ranked.all_ranked(results | {"rows": []}) == {}
    lags = {"a": 0.0, "b": 0.0, "d": 40.0}  # mostly alike: another metric tells more
    for row in results["rows"]:
        row["model"] |= {"AV_offset": lags.get(row["id"]), "mel_L1": len(row["id"]) + row["model"][
            "AV_correlation"] if row["id"] in lags else 3.0}
    assert ranked.by_default(results) == "mel_L1"
