"""What `--config.KEY=VALUE` means: keys with indices, and values of the type that the config has.

    --config.train.steps=500            --config.evaluate.splits=valid,test
    --config.evaluate.splits[0]=test    --config.evaluate.splits="('a', 'b')"
    --config.stages[2].minutes=1        --config.train.init_other_features
    --config.mesh="{'data': 2}"         --config.train.wandb=None

Lists are written with commas, as Python literals, or flag by flag; `()` is the empty one. `None`
clears a text or a list (the word itself is "'None'"). The same rules hold for a sweep, and, less
the parsing, for the overrides of a stage.
"""

import ast
import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from avjax.errors import UserError

_TOKEN = re.compile(
    r"""\.?([A-Za-z_]\w*) | \[ \s* (-?\d+) \s* \] | \[ \s* (?:'([^']*)' | "([^"]*)") \s* \]""",
    re.VERBOSE,
)
_NAMES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list",
    list: "a list",
    dict: "{'name': value, ...}",
}
_WORDS = {
    "true": True,
    "t": True,
    "1": True,
    "yes": True,
    "false": False,
    "f": False,
    "0": False,
    "no": False,
}


class _Wrong(Exception):
    """A value that does not fit: what would."""


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the command line without overrides, "KEY=VALUE" or "KEY" of each). A value may be the next
    argument."""
    rest, given, take = [], [], False
    for text in argv:
        flag = re.match(r"--?(no)?config([.\[].*)", text, re.DOTALL)
        if take and not text.startswith("--"):
            given[-1] += f"={text}"
            take = False
        elif flag:
            key, equals, value = flag[2].removeprefix(".").partition("=")
            given.append(f"{key}=False" if flag[1] else f"{key}{equals}{value}")
            take = not flag[1] and not equals
        else:
            rest.append(text)
            take = False
    return rest, given


def apply(config: ConfigDict, given: Sequence[str]) -> None:
    """Changes the config by "KEY=VALUE" texts, in order. UserError: no such key, or not a value of
    it."""
    said: set[str] = set()
    for text in given:
        key, equals, value = text.partition("=")
        where = f"--config.{key}"
        holder, last, old = find(config, key, where=where)
        if not equals and not isinstance(old, bool):
            raise UserError(
                "an override without a value", where=where, expected=f"{where}=VALUE", found=text
            )
        new = parse(value if equals else "True", old, where)
        if isinstance(old, tuple | list) and key in said:  # said again: one more
            new = old + new
        said.add(key)
        _set(config, holder, last, new, where)


def assign(config: ConfigDict, key: str, value: Any, where: str) -> None:
    """Changes one field to a Python value. UserError: no such key, or a value of another type."""
    holder, last, old = find(config, key, where=where)
    _set(config, holder, last, _fitted(value, old, where), where)


def parse(text: str, old: Any, where: str) -> Any:
    """A value as written on a command line, of the type of `old`. UserError."""
    try:
        return _parse(text, old)
    except _Wrong as wrong:
        raise UserError(
            "a config value has the wrong type", where=where, expected=str(wrong), found=repr(text)
        ) from None


def _parse(text: str, old: Any) -> Any:
    if text == "None" and not isinstance(old, bool | int | float | ConfigDict | dict):
        return _fit(None, old)
    if isinstance(old, bool):
        if text.strip().lower() not in _WORDS:
            raise _Wrong(_NAMES[bool])
        return _WORDS[text.strip().lower()]
    if isinstance(old, int | float):
        try:
            return type(old)(text)
        except ValueError:
            raise _Wrong(_NAMES[type(old)]) from None
    if isinstance(old, str):
        return "None" if text in ("'None'", '"None"') else text
    if isinstance(old, tuple | list):
        return _sequence(text, old)
    value = _literal(text)
    if isinstance(old, ConfigDict | dict) and not isinstance(value, dict):
        raise _Wrong(_NAMES[dict])
    return _fit(value, old)


def _sequence(text: str, old: tuple | list) -> tuple | list:
    value = _literal(text)
    if isinstance(value, tuple | list) and not (
        isinstance(old[0] if old else "", str) and text[:1] not in "(["
    ):
        return _fit(value, old)
    inner = text.strip()
    if inner[:1] + inner[-1:] in ("()", "[]") and (
        len(at_commas(inner[1:-1])) > 1 or not inner[1:-1].strip()
    ):
        inner = inner[1:-1]
    parts = [part.strip() for part in at_commas(inner)]
    parts = [
        part[1:-1] if len(part) > 1 and part[0] == part[-1] and part[0] in "'\"" else part
        for part in parts
    ]
    if parts and not parts[-1]:
        parts.pop()  # "a," is a list of one
    if "" in parts:
        raise _Wrong("a list, e.g. a,b; the empty one is ()")
    return type(old)(_parse(part, old[0]) if old else part for part in parts)


def at_commas(text: str) -> list[str]:
    """The parts of a text between commas that are outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _fitted(value: Any, old: Any, where: str) -> Any:
    try:
        return _fit(value, old)
    except _Wrong as wrong:
        raise UserError(
            "a config value has the wrong type", where=where, expected=str(wrong), found=repr(value)
        ) from None


def _fit(value: Any, old: Any) -> Any:
    """`value` as the type of `old`, where nothing is lost by that."""
    if old is None or isinstance(old, ConfigDict | dict):
        if old is not None and not isinstance(value, ConfigDict | dict):
            raise _Wrong(_NAMES[dict])
        return value
    if value is None and isinstance(old, str | tuple | list):
        return type(old)()
    if isinstance(old, tuple | list):
        if not isinstance(value, tuple | list):
            raise _Wrong("a list" if not isinstance(value, str) else f"a list, e.g. ({value!r},)")
        kinds = {type(x) for x in old}
        one = old[0] if len(kinds) == 1 and kinds <= {bool, int, float, str} else None
        return type(old)(x if one is None else _fit(x, one) for x in value)
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) != isinstance(old, bool) or not isinstance(value, type(old)):
        raise _Wrong(_NAMES.get(type(old), type(old).__name__))
    return value


def _set(config: ConfigDict, holder: list, last: Any, value: Any, where: str) -> None:
    """Puts the value where `find` went; tuples on the way are made anew."""
    for node, key in reversed([*holder, last]):
        if (
            isinstance(node, ConfigDict)
            and isinstance(node.get(key), ConfigDict)
            and isinstance(value, dict)
        ):
            for name, inner in value.items():
                assign(node[key], name, inner, where)
            return
        if isinstance(node, tuple | list):
            value = type(node)(value if i == key % len(node) else x for i, x in enumerate(node))
        elif isinstance(node, ConfigDict):
            try:
                node[key] = value
            except (TypeError, ValueError) as error:
                raise UserError(
                    "a config value has the wrong type",
                    where=where,
                    found=repr(value),
                    expected=str(error),
                ) from error
            return
        else:
            value = node | {key: value}


def find(config: ConfigDict, key: str, *, where: str) -> tuple[list, tuple, Any]:
    """(the steps to the holder, the last step, the value there now) of "a.b[0].c"; a step is (node,
    its key). UserError that names the nearest key, or how long a list is. A dictionary in a list (a
    stage) may get keys that it does not have."""
    tokens = list(_tokens(key, where))
    steps, node = [], config
    while tokens:
        token = tokens[0]
        if isinstance(node, ConfigDict):
            if token not in node:
                unknown(config, key, where=where)
            used = 1
        elif isinstance(node, dict):
            names = [t for t in tokens if isinstance(t, str)][
                : next((i for i, t in enumerate(tokens) if not isinstance(t, str)), len(tokens))
            ]
            if not names:
                raise UserError(
                    "unknown config key",
                    where=where,
                    expected=f"a name: {', '.join(node)}",
                    found=f"[{token}]",
                )
            used = next((n for n in range(len(names), 0, -1) if ".".join(names[:n]) in node), None)
            if (
                used is None
            ):  # of a group that is there, else a new name: overrides have dots in theirs
                used = 1 if isinstance(node.get(names[0]), dict) else len(names)
            token = ".".join(names[:used])
        elif isinstance(node, tuple | list):
            if not isinstance(token, int) or not -len(node) <= token < len(node):
                raise UserError(
                    "no such item of a list",
                    where=where,
                    found=f"[{token}]" if isinstance(token, int) else token,
                    expected=f"[0] to [{len(node) - 1}]" if node else "a list that is not empty",
                )
            used = 1
        else:
            raise UserError(
                "unknown config key",
                where=where,
                found=key,
                expected="no more than " + key[: len(key) - len(_text(tokens))].rstrip("."),
            )
        steps.append((node, token))
        node = node.get(token) if isinstance(node, dict) else node[token]
        tokens = tokens[used:]
    if not steps:
        unknown(config, key, where=where)
    return steps[:-1], steps[-1], node


def _text(tokens) -> str:
    return "".join(f"[{t}]" if isinstance(t, int) else f".{t}" for t in tokens)


def _tokens(key: str, where: str) -> Iterator[str | int]:
    at = 0
    while at < len(key):
        found = _TOKEN.match(key, at)
        if not found:
            raise UserError(
                "not a config key", where=where, found=key, expected="a.b, a.b[0] or a.b[0].c"
            )
        name, number, *quoted = found.groups()
        yield name or (int(number) if number else next((q for q in quoted if q is not None), ""))
        at = found.end()


def all_keys(config: ConfigDict, prefix: str = "") -> list[str]:
    """Every valid key, "a" and "a.b"."""
    keys = []
    for name, value in config.items():
        keys.append(prefix + name)
        if isinstance(value, ConfigDict):
            keys += all_keys(value, f"{prefix}{name}.")
    return keys


def unknown(config: ConfigDict, key: str, *, where: str) -> None:
    """UserError that names the nearest valid key."""
    keys, plain = all_keys(config), key.split("[")[0]
    same_leaf = [
        k for k in keys if k.rsplit(".", 1)[-1] == plain.rsplit(".", 1)[-1]
    ]  # the right name in the wrong group
    near = same_leaf or difflib.get_close_matches(plain, keys, n=1, cutoff=0.0)
    raise UserError(
        "unknown config key", where=where, found=plain, expected=f"nearest valid key: {near[0]}"
    )
