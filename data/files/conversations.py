"""Rows with a conversation, as LLaVA, ShareGPT and chat models have them: a record for each question and its answer.

    {"image": "a.png", "conversations": [{"from": "human", "value": "<image>\\nwhat is it?"}, {"from": "gpt", ...}]}
    {"images": ["a.png"], "messages": [{"role": "user", "content": "<image>what is it?"}, {"role": "assistant", ...}]}
    {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", ...}]}, ...]}

Each question stands alone. What a system message says is left out.
"""

import re
from collections.abc import Iterator
from typing import Any

from openpali.data.files.annotations import BadValue

KEYS = ("conversations", "messages", "conversation")
_ASK, _ANSWER = ("human", "user"), ("gpt", "assistant", "model", "chatgpt", "bot")
_OUT = ("system", "function", "tool", "observation")
_MARKS = re.compile(r"\A(\s*<image>\s*)+|(\s*<image>\s*)+\Z", re.IGNORECASE)
_IMAGES = ("image", "images")


def without_marks(text: str) -> str:
    """A text without the marks at its ends that say where the image goes, which is always before the text."""
    return _MARKS.sub("", text)


def conversation_key(row: Any) -> str | None:
    """The key of a row under which there is a conversation; None without one, or beside a question of its own."""
    if not isinstance(row, dict) or {"question", "prefix"} & set(row):
        return None
    return next((key for key in KEYS if isinstance(row.get(key), list | dict) and row[key]), None)


def questions(row: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The row once for each question in its conversation, with `question`, `answer`, and its image as `image`.

    Raises:
        BadValue: it is no such conversation, or there is no question with an answer.
    """
    rest = {name: value for name, value in row.items() if name not in (key, *_IMAGES)}
    images = next(([row[name]] if name == "image" else row[name] for name in _IMAGES if row.get(name)), [])
    images = [*images] if isinstance(images, list) else [images]
    asked, found = None, []
    for role, text, shown in _messages(row[key]):
        images += shown
        if role in _ASK:
            asked = without_marks(text)
        elif role in _ANSWER and asked is not None:
            found.append({"question": asked, "answer": text})
            asked = None
        elif role not in (*_OUT, *_ANSWER):
            raise BadValue(f"its {key} have a turn of {role!r}", "Call the two human and gpt, or user and assistant.")
    if not found:
        raise BadValue(f"its {key} have no question with an answer", "Write a question and its answer, or remove it.")
    image = {"image": images[0] if len(images) == 1 else images} if images else {}
    return [rest | image | pair for pair in found]


def _messages(talk: Any) -> Iterator[tuple[str, str, list[Any]]]:
    """Role, text and images of each message."""
    if isinstance(talk, dict):
        # an object of lists, as `datasets` has it
        names = [name for name, values in talk.items() if isinstance(values, list)]
        talk = [dict(zip(names, values)) for values in zip(*(talk[name] for name in names))]
    for message in talk:
        if not isinstance(message, dict):
            raise BadValue(f"its conversation holds {message!r}", 'Write {"from": "human", "value": "..."}.')
        role = str(message.get("from", message.get("role", ""))).lower()
        content = message.get("value", message.get("content"))
        parts = content if isinstance(content, list) else [content]
        texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
        images = [_image(part) for part in parts if isinstance(part, dict) and "image" in str(part.get("type"))]
        yield role, "\n".join(text for text in texts if text and isinstance(text, str)), [p for p in images if p]


def _image(part: dict[str, Any]) -> Any:
    """The image that a part of a message names; None where it is elsewhere in the row."""
    found = next((part[key] for key in ("image", "image_url", "url", "path") if part.get(key)), None)
    return found.get("url") if isinstance(found, dict) and "url" in found else found
