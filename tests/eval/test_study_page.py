"""A study's page in a real browser: a rater goes through it, closes it, and goes on."""

import csv
import pathlib

import pytest

from eval.study import ratings, score
from tests.eval.browser import Browser, needs_browser
from tests.eval.test_study import written

pytestmark = needs_browser


def start(page, rater=""):
    page.click("#rater")
    page.press(*rater)
    page.click("#beep")
    page.wait("beeps > 0")
    page.click("#heard")
    page.press("9")
    page.click("#start [type=submit]")
    assert "Play the beeps again" in page.text("#refused")
    page.value("document.getElementById('heard').value = ''")
    page.click("#heard")
    page.press(str(page.value("beeps")))
    page.press("Enter")
    page.wait("!document.getElementById('trial').hidden || position() < 0")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    key = written(folder, "pairwise", reference="truth", ties=True, layout="latin",
                  asked={"face": "Whose face?", "voice": "Whose voice?"})
    return folder / "study", key


def test_a_rater_by_keys_and_clicks(study, tmp_path):
    folder, key = study
    with Browser(tmp_path) as browser:
        page = browser.open(folder / "page" / "index.html")
        start(page, "2")
        count = len(key["orders"][1])
        assert page.text("#place") == f"Recording 1 of {count}" and count == 4
        page.press("a")  # before anything was heard
        assert page.value("names.some(chosen)") is False
        page.press(" ")  # the left one, by the keyboard
        page.wait("players()[0].dataset.heard")
        assert page.value("heard()") is False
        page.press(" ")
        page.wait("heard()")
        page.press("a", "=")
        assert page.value("names.map(chosen)") == ["A", "="]
        page.press("Enter")
        assert page.text("#place") == f"Recording 2 of {count}"
        page.value("players()[0].loop = true, players()[0].play()")
        page.value("players()[1].play()")  # never two at once
        page.wait("players()[1].dataset.heard")
        assert page.value("players()[0].paused") and not page.value("heard()")
        page.value("players()[0].loop = false, players()[0].play()")
        page.wait("heard()")
        for name, answer in (("face", "B"), ("voice", "A")):
            page.click(f"input[name={name}][value={answer}]")
        page.click("#next")
        assert page.text("#place") == f"Recording 3 of {count}" and page.errors() == []
        page.close()

        # closed; opened again, by the number in its address
        page = browser.open(folder / "page" / "index.html", query="?rater=2")
        assert page.value("document.getElementById('rater').value") == "2"
        start(page)
        assert page.text("#place") == f"Recording 3 of {count}"
        page.value("players()[0].src = 'nothing.wav'")
        page.wait("!document.getElementById('skip').hidden")
        page.click("#skip")
        page.wait("!document.getElementById('trial').hidden && position() == 3")
        while page.value("position()") >= 0:
            page.press(" ")
            page.wait("players()[0].dataset.heard")
            page.press(" ")
            page.wait("heard()")
            page.press("b", "b", "Enter")
        assert page.text("#done h2") == "Thank you"
        page.click("#save")
        name = f"ratings_{key['study']}_002.csv"
        page.wait("document.getElementById('kept').textContent == 'Saved.'")
        saved = browser.downloads / name
        while not saved.exists():
            page.value("new Promise(done => setTimeout(done, 50))")
    rows = list(csv.DictReader(saved.read_text().splitlines()))
    assert [r["trial"] for r in rows[::2]] == key["orders"][1]
    assert [r["answer"] for r in rows] == ["A", "=", "B", "A", "", "", "B", "B"]
    rater, = ratings.read(key, [saved])
    checks = [k for k, t in enumerate(key["orders"][1]) if "accept" in key["trials"][t]]
    assert rater.lacking == (checks != [2]) and rater.number == 2
    assert score.score(key, [rater], allowed=1)["questions"].keys() == {"face", "voice"}


def test_page_is_told_apart_by_rater_and_study(study, tmp_path):
    folder, key = study
    assert len({tuple(own) for own in key["orders"]}) > 1
    assert pathlib.Path(folder / "key.json").is_file()
    with Browser(tmp_path) as browser:
        page = browser.open(folder / "page" / "index.html")
        page.value("study.level = 0")
        page.click("#rater")
        page.press("7")  # of six
        page.value("begin(new Event('submit'))")
        assert "from 1 to 6" in page.text("#refused")
        page.value("document.getElementById('rater').value = '5', begin(new Event('submit'))")
        assert page.value("order.map(t => t.id)") == key["orders"][4]
        page.resize(390, 800)
        assert page.value("document.documentElement.scrollWidth") <= 390
