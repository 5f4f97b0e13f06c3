"""The report: what it says, and that its filters, players and print work in a real browser."""

import json
import types

import numpy as np
import pytest

from eval.registry import AUDIO, MOTION
from eval.report import energy, history, page
from tests.eval.browser import Browser, needs_browser

FPS, RATE = 10, 8000
LONG = np.array([0.2, 0.3, 0.3, 1.0])


def signals(rng, seconds=1.0, scale=1.0):
    frames = int(seconds * FPS)
    face = scale * np.sin(np.arange(frames)[:, None] + np.arange(3))
    return types.SimpleNamespace(
        has_audio=True, has_motion=True, scored={AUDIO, MOTION}, streams={"face": face},
        waveform=0.1 * rng.normal(size=int(seconds * RATE)).astype(np.float32),
        mel_TM=rng.normal(size=(40, 8)), mel_rate=40.0, face_NF=face, pose_NP=face,
        motion=lambda part: [face])


def benchmark():
    decoder = types.SimpleNamespace(has_face=True)
    speaking = np.arange(FPS) < FPS // 2
    return types.SimpleNamespace(
        sample_rate=RATE, picture_fps=FPS, motion_fps=FPS, has_words=False, has_lips=False,
        has_codes=True, truth_title="ground truth via codec", reader=None, decoder=decoder,
        stored_parts={"e": "face"},
        source=lambda split: types.SimpleNamespace(ids=["one", "two"]),
        speaking=lambda split, index, frames: speaking[None],
        pictures=lambda streams, identity: np.full((FPS, 32, 32, 3), 90, np.uint8))


def results(**more):
    def entry(value):
        return {"value": value, "n": 4, "low": value - 0.1, "high": value + 0.1}

    summary = {v: {"F1_lips": entry(x), "mel_L1": entry(x), "gap_mean_s": entry(x)}
               for v, x in (("talk", 0.7), ("truth", 1.0), ("mean", 0.2))}
    rows = [{"split": split, "id": name, "talk": {"gap_s": [0.1, 0.2], "true_gap_s": LONG.tolist()}}
            for split in ("valid", "other") for name in ("one", "two")]
    return {"summary": {"valid": summary, "other": summary}, "models": ["talk"], "rows": rows,
            "targets": {}, "benchmark": "toy", "params": "abc", "recipes": {"F1_lips": {"tau": 1}},
            "published": {"Paper <1>": {"source": "A. Body, table 2", "note": "another scale",
                                        "values": {"valid": {"mel_L1": 0.123, "WER": 0.456}}}}
            } | more


def samples(rng):
    return [{"split": split, "id": name, "text": f"words {name}", "benchmark": benchmark(),
             "models": {"talk": signals(rng, scale=2.0)}, "truth": signals(rng), "identity": {},
             "place": place} for split, name, place in (
                 ("valid", "one", "best by mel_L1"), ("other", "two", "worst by mel_L1"))]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    lines = [{"step": step, "split": "valid", "variant": v, "metric": "mel_L1", "value": step / 7,
              "low": step / 8, "high": None} for step in (1, 2, 2) for v in ("talk", "truth")]
    (out / "history.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return page.write(out, results(), samples(np.random.default_rng(0)))


def test_energy_is_in_units_of_the_truth():
    true = np.random.default_rng(0).normal(3.0, 1.0, (400, 5))
    assert energy.energy(true, true, 30.0).mean() == pytest.approx(1, abs=0.01)
    wild = true.mean(0) + 2 * (true - true.mean(0))
    assert energy.energy(wild, true, 30.0).mean() == pytest.approx(4, abs=0.04)
    assert energy.energy(np.tile(true.mean(0), (9, 1)), true, 30.0).max() < 1e-9
    row = energy.Curves("x", {"a": np.arange(4.0)}, np.array([True, False, False, True]))
    assert row.said() == "a 1.50 speaking, 1.50 else"


def test_page_says_what_was_measured(report):
    text = report.read_text()
    assert "<th scope=col class=published>Paper &lt;1&gt;</th>" in text
    assert "Paper &lt;1&gt;: A. Body, table 2<" in text and "another scale" in text
    wer, = [row for row in text.split("<tr ") if "<b>WER</b>" in row]  # that only the paper has
    assert wer.count("<td>-</td>") == 2 and "<td class=published>0.456</td>" in wer
    assert "truth 8, median 0.30 s, talk 4, median 0.15 s" in text
    assert "talk 4." in text and "else" in text  # twice the swing is four times the energy
    assert "http" not in text.split("<style>")[0] and " src='http" not in text
    files = {p.name for p in (report.parent / "plots").iterdir()}
    assert files == {"turns.valid.png", "turns.other.png", "scores.valid.png", *(
        f"{name}.{kind}.png" for name in ("valid.one", "other.two")
        for kind in ("spectrograms.talk", "motion", "energy"))}
    assert all((report.parent / "plots" / f).read_bytes()[:4] == b"\x89PNG" for f in files)


def test_a_report_without_examples_forgets_their_plots(tmp_path):
    page.write(tmp_path, results(), samples(np.random.default_rng(0))[:1])
    (tmp_path / "plots" / "mine.png").write_bytes(b"a user's own")
    page.write(tmp_path, results(failed=[{"split": "valid", "id": "<b>", "variant": "talk",
                                          "reason": "torn"}]), [])
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {"turns.valid.png",
                                                                "turns.other.png", "mine.png"}
    assert "failed, valid: &lt;b&gt; (talk): torn" in (tmp_path / "report.html").read_text()


def test_scores_over_steps_are_found(tmp_path):
    lines = [{"step": s, "kind": "benchmark", "voice/mel_L1": 1 / s, "F1_lips": 0.1, "odd": s,
              "F1_lips_of_shuffled": 3.0} for s in (1, 2)] + [{"step": 3, "kind": "train"}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    found = history.read_scores(tmp_path / "none", tmp_path)
    assert {m: set(v) for m, v in found["in the loop"].items()} == {"F1_lips": {"model"},
                                                                    "mel_L1": {"voice"}}
    np.testing.assert_array_equal(found["in the loop"]["mel_L1"]["voice"][:2], [[1, 2], [1, 0.5]])
    assert not history.read_history(tmp_path / "metrics.jsonl")
    (tmp_path / "history.jsonl").write_text("".join(
        json.dumps({"step": s, "split": "valid", "variant": "model", "metric": "mel_L1",
                    "value": v, "low": 0, "high": 1}) + "\n"
        for s, v in ((9, 5), (3, 2), (9, 4), (12, None))))  # one step twice, one undefined
    for place in (tmp_path, tmp_path / "step_9"):
        found = history.read_scores(place, tmp_path)
        np.testing.assert_array_equal(found["valid"]["mel_L1"]["model"],
                                      [[3, 9], [2, 4], [0, 0], [1, 1]])


@needs_browser
def test_filters_players_and_print_in_a_browser(report, tmp_path):
    shown = "[...document.querySelectorAll('tbody tr')].filter(row => row.offsetParent).length"
    with Browser(tmp_path) as browser:
        view = browser.open(report)
        assert view.value(shown) == 7 and view.text("#count") == "7 rows"
        # by the keyboard alone: the first stops are the filters
        stops = []
        for _ in range(5):
            view.press("Tab")
            stops.append(view.value("document.activeElement.id || document.activeElement.type"
                                    " || document.activeElement.getAttribute('role')"))
            assert view.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert stops == ["split", "family", "words", "reset", "region"]
        view.value("document.getElementById('words').focus()")
        view.press(*"mel")
        view.wait("location.hash == '#words=mel'")
        assert view.value(shown) == 2 and view.text("#count") == "2 of 7 rows"
        view.click("button[type=reset]")
        view.wait("location.hash == '#'  || location.hash == ''")
        assert view.value(shown) == 7
        view.value("document.getElementById('split').focus()")
        view.press("o")  # a select goes to the option that begins so
        view.wait("location.hash == '#split=other'")
        assert view.value(shown) == 3 and "worst by mel_L1" in view.text("main")
        assert "best by mel_L1" not in view.text("main")
        view.value("location.hash = '#split=valid&family=turn-taking'")
        view.wait(f"{shown} == 1")
        assert view.value("document.getElementById('family').value") == "turn-taking"

        view.value("location.hash = ''")
        view.wait(f"{shown} == 7")
        pressed = "document.querySelector('.together').getAttribute('aria-pressed')"
        players = "[...document.querySelector('.together').parentElement.querySelectorAll('video')]"
        view.click(".together")
        view.wait(f"{players}.length == 2 && {players}.every(p => p.currentTime > 0)")
        assert view.value(f"{players}.map(p => p.muted)") == [False, True]
        view.wait(f"{pressed} == 'false'")  # they have ended
        assert view.value(f"{players}.some(p => p.muted)") is False

        assert view.pdf().count(b"/Type /Page\n") > 1
        view.call("Emulation.setEmulatedMedia", media="print")
        assert view.value(shown) == 7
        assert view.value("getComputedStyle(document.querySelector('.filters')).display") == "none"
        view.call("Emulation.setEmulatedMedia", media="screen")
        view.resize(390, 844)
        assert view.value("document.documentElement.scrollWidth") == 390
        assert view.errors() == []
