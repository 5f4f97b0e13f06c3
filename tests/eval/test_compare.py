"""Comparisons: exact permutation tests, pairs by id, what cannot be compared is refused."""

import copy
import itertools
import json

import numpy as np
import pytest

from avjax.errors import UserError
from eval.compare import paired, terms
from launch import evaluate as command
from launch.jobs.scoring import compare as job


def write(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(content))
    return str(folder)


def results(seed, *, count=20, shift=0.0, errors=1):
    """Of two metrics that are means, an error rate, F1 and a pooled one."""
    rng = np.random.default_rng(seed)
    rows = [{"split": "valid", "id": f"e{i}", "text": f"words {i}",
             "truth": {"AV_correlation": 0.5},
             "model": {"mel_L1": 1 + 0.1 * i + shift + 0.05 * rng.normal(),
                       "AV_correlation": 0.5 + 0.1 * rng.normal(),
                       "lips": {"0.02": [5, int(rng.integers(4)), int(rng.integers(4))]},
                       "WER": {"substitutions": errors if i % 2 else 0, "deletions": 0,
                               "insertions": 0, "hits": 9}}} for i in range(count)]
    return {"summary": {"valid": {"model": {"FD_e_pooled": {"value": 2.0 + shift}}, "truth": {}}},
            "recipes": {"mel_L1": {"on": "mel"}, "AV_correlation": {"by": 1},
                        "F1_lips": {"tau": 0.02}, "WER": {"jiwer": "4"},
                        "FD_e_pooled": {"ddof": 1}, "vocoder": "a"},
            "models": ["model"], "benchmark": "toy", "params": str(seed), "step": 1, "failed": [],
            "rows": rows}


@pytest.mark.parametrize("statistic, columns", [(terms.mean, 1), (terms.rate, 4), (terms.f1, 3)])
def test_p_is_exact_of_few_examples(statistic, columns):
    """All 2^n exchanges, one by one."""
    rng = np.random.default_rng(columns)
    first, second = rng.integers(0, 9, (2, 6, columns)).astype(float)
    seen = abs(statistic(second.sum(0)[None], 6) - statistic(first.sum(0)[None], 6))[0]
    extreme = 0
    for mask in itertools.product([False, True], repeat=6):
        swap = np.array(mask)[:, None]
        a, b = np.where(swap, second, first), np.where(swap, first, second)
        d = abs(statistic(b.sum(0)[None], 6) - statistic(a.sum(0)[None], 6))[0]
        extreme += d >= seen - 1e-12
    assert paired.permutation_p(first, second, statistic) == extreme / 64
    assert paired.difference(first, second, statistic)["difference"] == pytest.approx(
        (statistic(second.sum(0)[None], 6) - statistic(first.sum(0)[None], 6))[0])


def test_a_known_p_and_drawn_permutations(monkeypatch):
    """Five gains of one size: two of 32 exchanges are as extreme (all, none)."""
    ones = np.ones((5, 1))
    assert paired.permutation_p(0 * ones, ones, terms.mean) == 2 / 32
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 12, 1))
    second += 0.7
    exact = paired.permutation_p(first, second, terms.mean)
    monkeypatch.setattr(paired, "EXACT", 5)
    assert paired.permutation_p(first, second, terms.mean) == pytest.approx(exact, abs=0.015)
    assert paired.permutation_p(0 * first, 0 * first + 9, terms.mean) >= 1 / (paired.DRAWN + 1)


def test_interval_is_of_pairs(monkeypatch):
    """Examples differ much, pairs little."""
    base = np.arange(30.0)[:, None] * 10
    found = paired.difference(base, base + 1 + 0.1 * np.sin(base), terms.mean)
    assert 0.9 < found["low"] < found["difference"] < found["high"] < 1.1 and found["p"] < 0.001
    same = paired.difference(base, base, terms.mean)
    assert same["p"] == 1 and same["low"] == same["high"] == 0
    assert paired.difference(base[:2], base[:2] + 1, terms.mean)["p"] is None


def test_worst_first(tmp_path, capsys):
    a = write(tmp_path / "a", results(0))
    b = write(tmp_path / "b", results(1, shift=0.2, errors=0))
    c = write(tmp_path / "c", results(2, count=15, shift=-0.3) | {"step": 2})
    found = job.run([a, b, c], str(tmp_path / "out"))
    worse, better = ({m["metric"]: m for m in other["metrics"]} for other in found["others"])
    assert [m["metric"] for m in found["others"][0]["metrics"]][0] == "mel_L1"
    assert worse["mel_L1"]["verdict"] == "worse" and worse["mel_L1"]["p_holm"] < 0.01
    assert worse["WER"]["verdict"] == "better" and worse["WER"]["second"] == 0
    assert worse["F1_lips"]["verdict"] == "" and 0 < worse["F1_lips"]["first"] < 1
    pooled = worse["FD_e_pooled"]
    assert pooled["difference"] == pytest.approx(0.2) and pooled["p"] is None
    assert found["others"][0]["metrics"][-1] == pooled  # what is not tested comes last
    assert better["mel_L1"]["verdict"] == "better" and better["mel_L1"]["pairs"] == 15
    assert worse["AV_correlation"]["first"] == pytest.approx(np.mean(
        [abs(r["model"]["AV_correlation"] - 0.5) for r in results(0)["rows"]]))
    out = capsys.readouterr().out
    assert "valid: 15 examples paired, of 20 and 15" in out
    assert "trained for 1 and 2 steps" in out and "compared.json" in out
    written = json.loads((tmp_path / "out" / "compared.json").read_text())
    assert written["others"][0]["metrics"][0]["metric"] == "mel_L1"
    assert (tmp_path / "out" / "compared.txt").read_text().strip() in out


def change(**fields):
    return lambda r: r | fields


@pytest.mark.parametrize("changed, message", [
    (change(benchmark="other"), "results of two benchmarks.*toy, other"),
    (lambda r: r["recipes"].update(WER={"jiwer": "3"}) or r,
     "two recipes of WER; where: .*; expected: jiwer = 4; found: jiwer = 3"),
    (lambda r: r["recipes"]["mel_L1"].update(network="x") or r,
     "two recipes of mel_L1.*no network"),
    (lambda r: r["rows"].append(r["rows"][3]) or r, "two rows of one example.*valid, e3"),
    (lambda r: r["rows"][2].update(text="else") or r, "one id, two texts.*e2"),
    (lambda r: [row.update(id="z" + row["id"]) for row in r["rows"]] and r, "no example in common"),
    (change(models=["x", "y"]), "no variant in common"),
    (lambda r: {"rows": []}, "unreadable results.*KeyError"),
])
def test_what_cannot_be_compared(tmp_path, changed, message):
    a = write(tmp_path / "a", results(0))
    b = write(tmp_path / "b", changed(copy.deepcopy(results(1))))
    with pytest.raises(UserError, match=message):
        job.run([a, b], None)


def test_it_needs_two_that_are_there(tmp_path):
    a = write(tmp_path / "a", results(0))
    with pytest.raises(UserError, match="nothing to compare with"):
        job.run([a], None)
    with pytest.raises(UserError, match="nothing to compare with.*none"):
        job.run([], None)
    with pytest.raises(UserError, match="no results here.*nowhere"):
        job.run([a, str(tmp_path / "nowhere")], None)


def test_a_vocoder_and_metrics_of_one_alone_are_remarked(tmp_path, capsys):
    other = results(1)
    other["recipes"] |= {"vocoder": "b", "UTMOS": {}}
    job.run([write(tmp_path / "a", results(0)), write(tmp_path / "b", other)], None)
    out = capsys.readouterr().out
    assert "sound by vocoders: a; b" in out and "measured of one alone: UTMOS" in out


def test_the_flag_takes_words():
    assert command.joined(["evaluate", "--compare", "a", "b", "--out=c"]) == [
        "evaluate", "--compare=a,b", "--out=c"]
    assert command.joined(["evaluate", "--list"]) == ["evaluate", "--list"]
    assert command.joined(["evaluate", "--compare"]) == ["evaluate", "--compare="]
