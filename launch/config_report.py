"""What `launch.config` prints: the header of a config file, its fields with their documents, what
differs from the defaults; as text and as JSON."""

import ast
import dataclasses
import json
import pprint
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

from avjax.fields import RESUME, Entry
from launch import ROOT, schema
from launch.config_files import config_file, load_module

WIDTH = 100
# the sections that a config file's docstring may have, in this order
SECTIONS = ("Prepare", "Run", "Generate", "Hardware", "Expect", "Sizes", "Provenance")
_SECTION = re.compile(rf"^({'|'.join(SECTIONS)}):[ \n]", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Header:
    """The docstring of a config file: what it is, then sections such as "Run:" or "Hardware:"."""

    title: str
    sections: dict[str, str]

    @property
    def text(self) -> str:
        width = 2 + max(map(len, SECTIONS))
        lines = [self.title, ""] if self.sections else [self.title]
        for name, body in self.sections.items():
            lines.append(f"{name + ':':{width}}" + body.replace("\n", "\n" + " " * width))
        return "\n".join(lines)


def read_header(file: Path) -> Header:
    """The header of a config file; it is not executed. One without a docstring has an empty one."""
    doc = ast.get_docstring(ast.parse(file.read_text())) or ""
    title, *parts = _SECTION.split(doc)
    bodies = (textwrap.dedent(" " * len("Provenance: ") + body).strip() for body in parts[1::2])
    return Header(title.strip(), dict(zip(parts[::2], bodies, strict=True)))


def read_variants(file: Path) -> tuple[str, ...]:
    """The arguments that FILE.py:ARGUMENT may have: `VARIANTS` of a config file."""
    return tuple(getattr(load_module(file), "VARIANTS", ()))


def experiments() -> str:
    """The shipped config files with the first sentence of their headers."""
    lines = ["Config files (avjax config --config=FILE prints one):", ""]
    for file in sorted((ROOT / "configs").glob("*.py")):
        if file.stem not in ("__init__", "base"):
            lines.append(f"configs/{file.name}")
            sentence = re.split(r"(?<=[.:])\s", read_header(file).title.replace("\n", " "))[0]
            lines += _wrap(sentence)
            if variants := read_variants(file):
                lines += _wrap(f"FILE:VARIANT with {', '.join(variants)}")
    return "\n".join(lines)


def listing(entries: Iterable[Entry]) -> str:
    """Every field: key, value, type, choices, bounds, default, whether a resumed run may change it,
    and its document."""
    lines = []
    for e in entries:
        if e.is_section:
            lines += ["", f"[{e.key}] {e.doc}", ""]
            continue
        facts = [e.type]
        facts += [" | ".join(repr(choice) for choice in e.choices)] if e.choices else []
        facts += [e.bounds] if e.bounds else []
        facts += [f"default {e.default!r}"]
        facts += [RESUME[e.resume]]
        lines += _assignment(e.key, e.value)
        lines += _wrap(e.doc or "(not documented)") + _wrap(f"({'; '.join(facts)})")
    return "\n".join(lines).strip("\n")


def differences(entries: Iterable[Entry]) -> str:
    """"key = value  # default: ..." of the fields that differ from their defaults."""
    lines = []
    for e in entries:
        if e.changed:
            shown = _assignment(e.key, e.value)
            shown[-1] += f"  # default: {e.default!r}"
            lines += shown
    return "\n".join(lines)


def values(entries: Iterable[Entry]) -> str:
    """"key = value" of every field."""
    return "\n".join(line for e in entries if not e.is_section
                     for line in _assignment(e.key, e.value))


def report(path: str, config, form: str, *, as_json: bool = False) -> str:
    """What is asked for about a config.

    Args:
      path: "FILE.py" or "FILE.py:VARIANT", whose header is shown.
      form: list, diff or values.
      as_json: {"title", "sections", "variants", "fields": [{"key", "value", "doc", ...}]} instead,
        of all fields or those that differ (form diff).
    """
    file, _ = config_file(path)
    entries = [e for e in schema.entries(config) if e.changed or form != "diff"]
    if as_json:
        header = read_header(file)
        fields = [dataclasses.asdict(e) | {"changed": e.changed} for e in entries]
        return json.dumps({"title": header.title, "sections": header.sections,
                           "variants": read_variants(file), "fields": fields}, indent=1,
                          default=str)
    if form == "list":
        return f"{read_header(file).text}\n\n{listing(entries)}"
    return {"diff": differences, "values": values}[form](entries)


def _assignment(key: str, value) -> list[str]:
    text = f"{key} = {value!r}"
    if len(text) > WIDTH:
        text = f"{key} =\n" + textwrap.indent(pprint.pformat(value, width=WIDTH - 4,
                                                             sort_dicts=False), "    ")
    return text.splitlines()


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ",
                         break_long_words=False, break_on_hyphens=False)
