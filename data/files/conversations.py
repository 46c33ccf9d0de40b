"""Conversations as in LLaVA, ShareGPT and chat datasets: one record for each question with its answer.

    {"image": "a.png", "conversations": [{"from": "human", "value": "<image>\\nwhat is it?"}, {"from": "gpt", ...}]}
    {"images": ["a.png"], "messages": [{"role": "user", "content": "<image>what is it?"}, {"role": "assistant", ...}]}
    {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", ...}]}, ...]}

Each question is independent of earlier ones. System messages are ignored.
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
    """The text without `<image>` at its ends: images always come before the text."""
    return _MARKS.sub("", text)


def conversation_key(row: Any) -> str | None:
    """The key of a row's conversation; None without one, or where the row has a question itself."""
    if not isinstance(row, dict) or {"question", "prefix"} & set(row):
        return None
    return next((key for key in KEYS if isinstance(row.get(key), list | dict) and row[key]), None)


def questions(row: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """A copy of the row for each question of its conversation, with `question`, `answer` and `image`.

    Raises:
        BadValue: the conversation has another form, or no question with an answer.
    """
    rest = {name: value for name, value in row.items() if name not in (key, *_IMAGES)}
    images = next(([row[name]] if name == "image" else row[name] for name in _IMAGES if row.get(name)), [])
    images = [*images] if isinstance(images, list) else [images]
    question, found = None, []
    for role, text, shown in _messages(row[key]):
        images += shown
        if role in _ASK:
            question = without_marks(text)
        elif role in _ANSWER and question is not None:
            found.append({"question": question, "answer": text})
            question = None
        elif role not in (*_OUT, *_ANSWER):
            raise BadValue(f"its {key} have the role {role!r}", "Name the roles human and gpt, or user and assistant.")
    if not found:
        raise BadValue(f"its {key} have no question with an answer", "Write a question and its answer, or remove it.")
    image = {"image": images[0] if len(images) == 1 else images} if images else {}
    return [rest | image | pair for pair in found]


def _messages(talk: Any) -> Iterator[tuple[str, str, list[Any]]]:
    """Role, text and images of each message."""
    if isinstance(talk, dict):
        # a dict of lists, as in `datasets`
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
    """The image of a part of a message; None where it is elsewhere in the row."""
    found = next((part[key] for key in ("image", "image_url", "url", "path") if part.get(key)), None)
    return found.get("url") if isinstance(found, dict) and "url" in found else found
