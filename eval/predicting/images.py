"""The images that a command line names: files, folders, quoted patterns, clips, and a list on the standard input."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from PIL import Image

from openpali.data.images.open_image import BadImage, load_image
from openpali.data.images.video import IMAGES, BadVideo, FrameSampling, read_clip

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ogv", ".3gp", ".flv", ".wmv")
STDIN = "-"
# what one image can be at fault with; a clip also needs a package
UNREADABLE = (BadImage, BadVideo, OSError, ImportError)


class Picture(NamedTuple):
    """One image, or the frames of one clip, as the model reads them, and its path as it was given."""

    path: str
    images: tuple[Image.Image, ...]


def images_and_prompts(words: Sequence[str], prompts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part the words behind the model into images and prompts.

    Args:
        words: at least one. Without `prompts` the last of several is the prompt.
        prompts: of `--prompt`.

    Raises:
        ValueError: the last word is an image where the prompt is expected.
    """
    if prompts:
        return list(words), list(dict.fromkeys(prompts))
    if len(words) == 1:
        return list(words), [""]
    if names_images(words[-1]):
        raise ValueError(
            f"{words[-1]} is an image, and the last word is the prompt: add it, or give --prompt TEXT, which may be"
            ' "", and images alone'
        )
    return list(words[:-1]), [words[-1]]


def names_images(word: str) -> bool:
    """Whether a word must be meant as an image, not as a prompt."""
    # os.path accepts texts that are too long for a path
    if word == STDIN or os.path.isfile(word) or (os.path.isdir(word) and next(files_below(word), None) is not None):
        return True
    return is_media(word) and " " not in word


def is_media(name: str) -> bool:
    """Whether a name ends as that of an image or a clip."""
    return name.lower().endswith(IMAGES + VIDEOS)


def find_images(words: Sequence[str], stdin: TextIO) -> list[str]:
    """The paths of images and clips that words name, each once, in their order.

    A folder has those below it, hidden ones left out, sorted by name. `-` reads words from `stdin`, one a line. A file
    that is not there is returned as well, and found missing when it is read.

    Raises:
        ValueError: a folder or a pattern has none, or there is none at all.
    """
    found: list[str] = []
    for word in words:
        if word == STDIN:
            listed = [line.strip() for line in stdin]
            found += [path for line in listed if line for path in find_of_word(line)]
        else:
            found += find_of_word(word)
    if not found:
        raise ValueError("the list of images on the standard input is empty: write one path a line")
    return list({os.path.normpath(path): path for path in reversed(found)}.values())[::-1]


def find_of_word(word: str) -> list[str]:
    """The paths of one word; see `find_images`."""
    if os.path.isdir(word):
        if found := list(files_below(word)):
            return found
        raise ValueError(f"the folder {word} holds no image or clip ({', '.join(IMAGES)}, {', '.join(VIDEOS)})")
    if os.path.lexists(word) or not glob.has_magic(word) or word.startswith(("http://", "https://")):
        return [word]
    matches = sorted(glob.glob(word, recursive=True))
    files = [path for path in matches if is_media(path) and os.path.isfile(path)]
    if not files:
        there = f"{len(matches)} names, none of them of an image or clip" if matches else "nothing"
        prompt = "; of several prompts each needs --prompt" if " " in word else ""
        raise ValueError(
            f"the pattern {word} matches {there}: check it, and the folder that it is relative to{prompt}"
        )
    return files


def files_below(folder: str) -> Iterator[str]:
    """Images and clips in a folder and its subfolders, sorted within each; hidden ones are left out."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(place, name) for name in sorted(files) if is_media(name) and not name.startswith("."))


def read_picture(path: str, num_frames: int) -> Picture:
    """Read an image, or `num_frames` frames of a clip. Raises one of `UNREADABLE`."""
    if path.lower().endswith(VIDEOS):
        return Picture(path, tuple(read_clip(path, FrameSampling(num_frames))))
    return Picture(path, (load_image(path),))


def read_groups(
    paths: Sequence[str], size: int, num_frames: int, skip: Callable[[str, Exception], None]
) -> Iterator[list[Picture]]:
    """Read images when they are needed, in lists of `size`; `skip` is told of each that cannot be read, and why."""
    group: list[Picture] = []
    for path in paths:
        try:
            group.append(read_picture(path, num_frames))
        except UNREADABLE as error:
            skip(path, error)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def drawing_names(paths: Sequence[str], prompts: Sequence[str], folder: Path) -> list[list[str]]:
    """A name for each prompt about each image, without ending, that no other answer and no image in `folder` has."""
    place = os.path.abspath(folder)
    taken = {Path(path).stem.casefold() for path in paths if os.path.abspath(os.path.dirname(path)) == place}
    counts: dict[str, int] = {}

    def unused(name: str) -> str:
        counts[name] = number = counts.get(name, 0) + 1
        numbered = f"{name}_{number}" if number > 1 else name
        if numbered.casefold() in taken:
            return unused(name)
        taken.add(numbered.casefold())
        return numbered

    several, of_prompts = len(prompts) > 1, [[name] if (name := cut(in_words(one), 60)) else [] for one in prompts]
    return [
        [unused("_".join([cut(Path(path).stem, 120), *(some if several else []), "answer"])) for some in of_prompts]
        for path in paths
    ]


def in_words(prompt: str) -> str:
    """A prompt as a part of a file's name."""
    return "_".join("".join(letter if letter.isalnum() else " " for letter in prompt).split())


def cut(name: str, longest: int) -> str:
    """A part of a file's name, of at most `longest` bytes."""
    return os.fsencode(name)[:longest].decode("utf-8", "ignore")
