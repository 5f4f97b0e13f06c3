"""What there is of VoxCeleb2: utterances by identity, video and number, in any of the layouts that
it lies in, and its table of identities."""

import dataclasses
import pathlib
import re
from collections import Counter

from avjax.errors import UserError
from data_pipelines.media import archives, text_file
from data_pipelines.media.archives import Place

VIDEO, SOUND = (".mp4",), (".m4a", ".wav", ".flac")
_UTTERANCE = re.compile(r"(?:^|/)(id\d{5})/([^/]+)/(\d+)(\.[A-Za-z0-9]+)$")
_SET = re.compile(r"(?:^|[/_])(dev|train|test)(?=[/_.]|$)")
_OTHER = "id10"  # what VoxCeleb1's identities begin with
META = "vox2_meta.csv"


@dataclasses.dataclass
class Utterance:
    """One of the tracks."""

    identity: str
    recording: str  # the video that it was cut from
    number: str
    sets: set[str] = dataclasses.field(default_factory=set)  # of its places: dev, test
    video: Place | None = None
    sound: Place | None = None

    @property
    def id(self) -> str:
        return f"{self.identity}.{self.recording}.{self.number}"

    def set(self, known: dict[str, dict[str, str]]) -> str:
        """dev or test, by its place or else by the table; "" where neither says."""
        return min(self.sets, default=known.get(self.identity, {}).get("set", ""))


def utterances(root: pathlib.Path, told: Counter) -> list[Utterance]:
    """All of them, by identity, video and number. `told` gets what is there twice."""
    found: dict[tuple, Utterance] = {}
    for place in archives.walk(root):
        match = _UTTERANCE.search(str(place))
        kind = match and ("video" if match[4].lower() in VIDEO else
                          "sound" if match[4].lower() in SOUND else None)
        if not kind:
            continue
        one = found.setdefault(match.group(1, 2, 3), Utterance(*match.group(1, 2, 3)))
        if named := _SET.findall(str(place)[:match.start() + 1]):
            one.sets.add("test" if named[-1] == "test" else "dev")
        if getattr(one, kind) is not None:
            told[f"{kind} there twice, the first taken"] += 1
        else:
            setattr(one, kind, place)
    return [found[key] for key in sorted(found)]


def table(root: pathlib.Path) -> dict[str, dict[str, str]]:
    """{identity: {"set": dev or test, "gender": m or f, "vggface2": ...}} of vox2_meta.csv, {}
    where there is none. Raises UserError: it is no such table."""
    path = next((p for p in (root / META, *sorted(root.glob(f"*/{META}"))) if p.is_file()), None)
    if path is None:
        return {}
    out = {}
    # commas or tabs, and spaces around them, as the copies that go round have it
    for number, line in enumerate(text_file.read(path, what="table").splitlines(), 1):
        cells = [cell.strip() for cell in re.split(r"[,\t]", line)]
        if not any(cells) or cells[0].lower().startswith("voxceleb2"):
            continue
        if len(cells) < 4 or cells[3] not in ("dev", "test") or not cells[0].startswith("id"):
            raise UserError("unreadable table", where=f"{path}, line {number}",
                            expected="identity, VGGFace2's, gender, dev or test",
                            found=line.strip()[:80], hint="fetch vox2_meta.csv again")
        out[cells[0]] = {"set": cells[3], "gender": cells[2], "vggface2": cells[1]}
    return out


def defect(one: Utterance, known: dict[str, dict[str, str]]) -> str:
    """Why an utterance is left out before it is read; "" for no reason."""
    if one.identity.startswith(_OTHER):
        return "of VoxCeleb1"
    if known and one.identity not in known:
        return f"not in {META}"
    if len(one.sets) > 1:
        return "in dev and in test"
    return "" if not known or one.sets <= {known[one.identity]["set"]} else \
        f"in another set than {META} says"


def few(found: list[Utterance], most: int) -> list[Utterance]:
    """At most `most` of each identity, in turn of each of its videos; in the same order."""
    rank, of_video, kept = {}, Counter(), Counter()
    for one in found:
        rank[one.id] = of_video[one.identity, one.recording]
        of_video[one.identity, one.recording] += 1
    out = set()
    for one in sorted(found, key=lambda one: rank[one.id]):
        kept[one.identity] += 1
        if kept[one.identity] <= most:
            out.add(one.id)
    return [one for one in found if one.id in out]
