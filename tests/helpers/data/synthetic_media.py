"""Images, clips and files of synthetic fixtures: the public layout of a dataset with a few records."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

COLOURS = ["red", "lime", "blue", "white", "yellow", "purple", "gray", "orange"]
WIDTH, HEIGHT = 40, 30


def save_image(path: Path, number: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """An image of two colours, whose halves say which one it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, COLOURS[number % len(COLOURS)])
    image.paste(COLOURS[(number // len(COLOURS) + 1) % len(COLOURS)], (0, 0, size[0] // 2, size[1]))
    image.save(path)
    return path


def clip(path: Path, number: int, frames: int = 12, rate: int = 8) -> Path:
    """A video file of grey frames, each brighter than the one before, as `shown_steps` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for step in range(frames):
            pixels = np.full((16, 32, 3), 20 + number + 16 * (step % 14), np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def shown_steps(images: list[Image.Image]) -> list[int]:
    """Which frames of a clip these are."""
    return [round((float(np.asarray(image).mean()) - 20) / 16) for image in images]


def write_json(path: Path, content: Any) -> Path:
    """A file of JSON, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    """A line of JSON for each row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_text(path: Path, *lines: str) -> Path:
    """Lines of text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
