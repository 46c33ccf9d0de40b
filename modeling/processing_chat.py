"""The chat template that is saved with the checkpoints of both families: a chat becomes one prompt.

The models answer one prompt about images; they are not trained on conversations. So all images come first, then the
messages of the system and those of the user since the last answer, joined by spaces and without roles, as in training.
`<image>` in a text is removed, since the image has its placeholder already. An answer at the end of the chat stands on
a line of its own behind the prompt; `return_assistant_tokens_mask` marks it.
"""

import logging
from typing import Any

from .processing_tokenizer import IMAGE_TOKEN

logger = logging.getLogger(__name__)

_PARTS = "{%- for part in message['content'] if part['type'] == "
CHAT_TEMPLATE = (
    "{%- set turn = namespace(start=0, words='', answer='') %}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'assistant' and not loop.last %}{%- set turn.start = loop.index %}{%- endif %}"
    "{%- if message['content'] is not string %}"
    f"{_PARTS}'image' %}}{IMAGE_TOKEN}{{%- endfor %}}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- for message in messages %}"
    "{%- set said = namespace(text='') %}"
    "{%- if message['content'] is string %}{%- set said.text = message['content'] %}"
    f"{{%- else %}}{_PARTS}'text' and part['text'] %}}"
    "{%- set said.text = said.text + (' ' if said.text else '') + part['text'] %}"
    "{%- endfor %}{%- endif %}"
    f"{{%- set said.text = said.text.replace('{IMAGE_TOKEN}', '') %}}"
    "{%- if message['role'] == 'assistant' %}"
    "{%- if loop.last %}{%- set turn.answer = said.text %}{%- endif %}"
    "{%- elif said.text and (loop.index0 >= turn.start or message['role'] in ['system', 'developer']) %}"
    "{%- set turn.words = turn.words + (' ' if turn.words else '') + said.text %}"
    "{%- endif %}"
    "{%- endfor %}"
    "{{- turn.words }}"
    "{%- if turn.answer %}{{ '\n' }}{% generation %}{{ turn.answer }}{% endgeneration %}{%- endif %}"
)


def take_chat_template(tokenizer: Any) -> str | None:
    """Remove the chat template of a language model's tokenizer and return it; None for the one of this file.

    A template without images was made for another model; it is dropped with a warning.
    """
    template, tokenizer.chat_template = tokenizer.chat_template, None
    if template is None or (isinstance(template, str) and IMAGE_TOKEN in template):
        return template
    logger.warning(
        "the chat template of the tokenizer %s has no %s: it is replaced by one that puts images first",
        tokenizer.name_or_path,
        IMAGE_TOKEN,
    )
    return None
