"""Pictures, sound and video: a row that needs them is refused, never trained on as text.

A column that is named after them and holds something, a value that is a picture or a recording
whatever its column is called, a picture of a message, and a placeholder that stands for one.
"""

import re
from collections.abc import Iterator, Mapping, ValuesView
from functools import lru_cache
from typing import Any

from orpo.data.types import PreferencePair, Row

_MEDIA = (
    r"(?:images?|imgs?|pictures?|pics?|photos?|screenshots?|videos?|audios?|waveforms?|pixels?"
    r"|multimodal|multi_modal|mm_data|mm_inputs?)\d*"
)
_NAMED = re.compile(rf"(?:.+_)?{_MEDIA}(?:_.+)?", re.IGNORECASE)
# What is said about a picture and is none.
_ABOUT = re.compile(
    r"(?:.*_)?(?:ids?|idx|index|counts?|num|n|has|is|no|width|height|sizes?|shape|captions?|alt"
    r"|descriptions?|desc|text|title|prompts?|licen[cs]e|source|dataset|category|type|format|model"
    r"|style|hash|sha\d*|md5|duration|length|seconds|lang|language|labels?|topic|tags?|domain"
    r"|scores?|rating|quality|date|author|credit|names?|question|answer)(?:_.*)?",
    re.IGNORECASE,
)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_FILE = re.compile(
    r"data:(?:image|audio|video)/.*|.+\.(?:jpe?g|png|gif|webp|bmp|tiff?|mp4|webm|avi|mov|mkv|mp3"
    r"|wav|flac|ogg|m4a)",
    re.IGNORECASE | re.DOTALL,
)
_RECORDINGS = ({"bytes", "path"}, {"array", "sampling_rate"})  # how `datasets` keeps them
_OBJECTS = ("PIL.", "torchcodec.", "torchvision.")

_PLACEHOLDER = re.compile(
    r"<(?:image|video|audio)(?:_?\d+)?>|<ImageHere>|<(?:image|video|audio)_(?:soft_token|pad|token)>"
    r"|<start_of_(?:image|audio)>|<\|(?:image|video|audio|begin_of_image|begin_of_video)(?:_\d+)?\|>"
    r"|<\|vision_start\|>|<\|(?:image|video|audio)_(?:pad|bos)\|>|\[IMG\]",
    re.IGNORECASE,
)
# Beyond the end of a placeholder: nothing on its line, or words that are glued to it.
_STANDS_ALONE = re.compile(r"[ \t]*(?:\n|$)|[^\s`'\".,;:!?)\]/-]")
_DEEPEST = 8  # levels of lists in which somebody looks for something
_FIX = "Only texts are trained on: give rows without pictures, sound and video."


def refuse_media(row: Row) -> None:
    """Refuse a row that holds a picture, a recording or a video."""
    for name, value in row.values.items():
        turns = value if isinstance(value, list | tuple) else [value]
        said = (turn for turn in turns if isinstance(turn, Mapping) and {"role", "from"} & {*turn})
        parts = ((str(name), part) for turn in said for name, part in turn.items())
        if holds_media(name, value) or any(holds_media(*part) for part in parts):
            raise row.fault("holds pictures, sound or video", name, _FIX)


def refuse_placeholders(pair: PreferencePair) -> None:
    """Refuse a pair whose texts stand for a picture that is not there.

    Where the row has a column for pictures, any placeholder does, such as "<image>". Elsewhere it
    may be what is talked about ("How do I use the <image> tag?"): there, only one that opens a line
    of the prompt and stands alone on it or is glued to the words after it does.
    """
    meant = any(map(_is_media, pair.row.values))
    for part, text in _texts(pair):
        if ("<" not in text and "[IMG]" not in text) or (part != "prompt" and not meant):
            continue
        found = next((f for f in _PLACEHOLDER.finditer(text) if meant or _alone(f, text)), None)
        if found:
            raise pair.row.fault(
                f"{found[0]!r} in the {part} stands for a picture or recording that is not there",
                fix=_FIX,
            )


def holds_media(name: str, value: Any) -> bool:
    """Whether a field of this name and value is a picture, a recording or a video, or several."""
    if is_empty(value):
        return False
    parts = value if isinstance(value, list | tuple) else [value]
    if _is_media(name):
        files = (isinstance(part, str) and _FILE.fullmatch(part.strip()) for part in parts)
        return _ABOUT.fullmatch(_plain(name)) is None or any(files)
    part = parts[0]  # whatever its column is called
    if isinstance(part, Mapping):
        return any(set(part) >= names for names in _RECORDINGS)
    if isinstance(part, str):
        return part.startswith(("data:image/", "data:audio/", "data:video/"))
    return type(part).__module__.startswith(_OBJECTS)


def is_empty(value: Any, depth: int = 0) -> bool:
    """Whether nothing stands in a field: null, "", [], {} or only such, NaN, 0."""
    if isinstance(value, str):
        return value.strip().casefold() in {"", "[]", "{}", "null", "none", "nan"}
    if isinstance(value, int | float):
        return not value or value != value  # noqa: PLR0124 - NaN
    parts = value.values() if isinstance(value, Mapping) else value
    if isinstance(parts, list | tuple | ValuesView):
        return depth < _DEEPEST and all(is_empty(part, depth + 1) for part in parts)
    return value is None


def _plain(name: str) -> str:
    return _CAMEL.sub("_", name.strip()).replace("-", "_").replace(" ", "_")


@lru_cache(1024)
def _is_media(name: str) -> bool:
    return _NAMED.fullmatch(_plain(name)) is not None


def _texts(pair: PreferencePair) -> Iterator[tuple[str, str]]:
    """What is said, and in which part of the pair; earlier answers are answers."""
    plain = pair.text if pair.prompt is None else None
    yield "prompt", plain.prompt if plain else ""
    for turn in pair.prompt or ():
        part = "earlier answer" if turn["role"] == "assistant" else "prompt"
        yield part, str(turn.get("content") or "")
    for name in ("chosen", "rejected"):
        said = getattr(plain, name) if plain else (getattr(pair, name) or {}).get("content")
        yield f"{name} answer", str(said or "")


def _alone(found: re.Match[str], text: str) -> bool:
    """Whether a placeholder opens a line and no words follow it that are about it."""
    opening, closing = text[: found.start()].rpartition("\n")[2], f"</{found[0][1:]}"
    placeholders = not _PLACEHOLDER.sub("", opening).strip()
    stands = _STANDS_ALONE.match(text, found.end()) is not None
    return placeholders and stands and closing not in text
