"""Captions of the nano web: sentences about built-in scenes, as alternative texts of the web, and boilerplate."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from openpali.data.sources.builtin.phrases import caption, phrases, plural

# {x} is the caption of the scene in the words of the built-in images
SENTENCES = {
    "en": ("a picture of {x}", "a photo that shows {x}", "here you can see {x} on a colourful background"),
    "es": (
        "una imagen en la que aparece: {x}",
        "aquí se puede ver sobre un fondo de colores: {x}",
        "esta foto muestra: {x}",
    ),
    "fr": ("une image où l'on voit : {x}", "on peut voir ici, sur un fond coloré : {x}", "cette photo montre : {x}"),
    "it": (
        "un'immagine in cui si vede: {x}",
        "qui si può vedere su uno sfondo colorato: {x}",
        "questa foto mostra: {x}",
    ),
    "de": (
        "ein Bild, auf dem man das sieht: {x}",
        "hier sieht man auf buntem Hintergrund: {x}",
        "dieses Foto zeigt: {x}",
    ),
    "pt": (
        "uma imagem em que aparece: {x}",
        "aqui você pode ver sobre um fundo colorido: {x}",
        "esta foto mostra: {x}",
    ),
    "tr": (
        "bu resimde şunlar görülüyor: {x}",
        "burada renkli bir arka planda görülen: {x}",
        "bu fotoğrafın gösterdiği: {x}",
    ),
    "id": ("gambar ini memperlihatkan {x}", "di sini terlihat {x} dengan latar berwarna", "foto ini menunjukkan {x}"),
    "ru": ("на этой картинке видно: {x}", "здесь на цветном фоне можно увидеть: {x}", "на фотографии показано: {x}"),
    "ja": ("この写真には{x}が写っています", "カラフルな背景に{x}が見えます", "{x}の画像です"),
    "ar": ("صورة يظهر فيها: {x}", "هنا يمكن أن ترى على خلفية ملونة: {x}", "هذه الصورة تعرض: {x}"),
}
WANTED = ("en", "es", "fr", "it")
"""Languages that recipes/configs/web/nano.yaml keeps."""
UNWANTED = tuple(language for language in SENTENCES if language not in WANTED)

_TAGS = (
    "buy cheap online shop free shipping best price sale offer discount today only new collection order now click "
    "here subscribe newsletter privacy policy terms contact login register cart checkout wishlist share like follow"
)
_FILLER = tuple(_TAGS.split())


def sentences(record: dict[str, Any], language: str) -> list[str]:
    """The captions of a scene in a language, in all forms."""
    things = english(record["objects"]) if language == "en" else record["captions"][language]
    return [form.replace("{x}", things) for form in SENTENCES[language]]


def english(objects: Sequence[dict[str, Any]]) -> str:
    """The things of a scene with articles: `a dog and two cats`."""
    names = [item["names"]["en"] for item in objects]
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    numbers = phrases("en")["numbers"]
    told = [
        f"{'an' if name[0] in 'aeiou' else 'a'} {name}" if count == 1 else f"{numbers[count - 1]} {plural(name)}"
        for name, count in counts.items()
    ]
    return caption(dict.fromkeys(told, 1), "en")


def _address(rng: random.Random) -> str:
    return f"https://www.example.com/images/{rng.randrange(1000)}/photo-{rng.randrange(10**6)}.jpg"


def _file_name(rng: random.Random) -> str:
    return rng.choice(("IMG_{:04d}.JPG", "DSC{:05d}.jpg", "image{:03d}.png")).format(rng.randrange(999))


def _repeated(rng: random.Random) -> str:
    return " ".join([rng.choice(_FILLER)] * rng.randint(12, 20))


def _short(rng: random.Random) -> str:
    return rng.choice(("a", "x", "ok", "1", "-"))


def _long(rng: random.Random) -> str:
    return " ".join(rng.choice(_FILLER) for _ in range(rng.randint(300, 400)))


def _numbers(rng: random.Random) -> str:
    return " ".join(f"{rng.randrange(10**5):05d}" for _ in range(rng.randint(3, 6)))


def _markup(rng: random.Random) -> str:
    return f'<a href="{_address(rng)}" onclick="alert(1)"><img src="x"></a>'


BOILERPLATE: dict[str, Callable[[random.Random], str]] = {
    "an address": _address,
    "a file name": _file_name,
    "one word repeated": _repeated,
    "too short": _short,
    "too long": _long,
    "numbers": _numbers,
    "markup": _markup,
}
"""Kinds of texts that say nothing about an image, and what makes one."""
