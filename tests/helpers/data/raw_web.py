"""A small raw web: smooth random images with captions, copies among them, evaluation images, and damage."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from image_bytes import encoded
from PIL import Image

from openpali.scripts.shards.parallel import write_shard

COLOURS = ("red", "blue", "white", "black", "yellow")


def scene(seed: int, side: int = 96) -> Image.Image:
    """A smooth random image, as photographs are."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def write_raw_web(folder: Path, shards: int = 4, size: int = 20) -> tuple[set[str], set[str]]:
    """Write the shards to `folder`/raw and evaluation images to `folder`/evaluation.

    Returns:
        Names of planted copies, and of planted evaluation images, as shard and key.
    """
    (folder / "evaluation").mkdir(parents=True)
    for seed in range(3):
        scene(10_000 + seed).save(folder / "evaluation" / f"{seed}.png")
    copies, leaks = set(), set()
    for shard in range(shards):
        samples = []
        for number in range(size):
            seed, name = shard * size + number, f"{shard:04d}:{number:04d}"
            image = scene(seed)
            if shard and number % 7 == 3:
                # of an earlier shard
                image = scene((shard - 1) * size + number - 3).resize((70, 70))
                copies.add(name)
            elif number == 5:
                image = scene(10_000 + shard % 3).resize((60, 60))
                leaks.add(name)
            members = {"jpg": encoded(image, "JPEG", quality=70)}
            members["json"] = json.dumps({"caption": f"{COLOURS[seed % 5]} {COLOURS[seed // 5 % 5]} image"}).encode()
            samples.append((f"{number:04d}", members))
        samples[8][1]["json"] = json.dumps({"caption": "https://example.com/image.jpg"}).encode()
        samples[9][1]["jpg"] = b""
        write_shard(folder / "raw" / f"{shard:04d}.tar", samples)
    damage(folder / "raw")
    return copies, leaks


def damage(raw: Path) -> None:
    """Add a shard with hostile and broken samples, and one that ends too early."""
    good = encoded(scene(5_000), "JPEG")
    with tarfile.open(raw / "hostile.tar", "w") as archive:
        for name, content in {
            "../../out.jpg": good,
            "/abs.jpg": good,
            "json.jpg": good,
            "json.json": b"{",
            "fine.jpg": good,
            "fine.txt": b"red image",
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    whole = (raw / "0000.tar").read_bytes()
    (raw / "short.tar").write_bytes(whole[: len(whole) // 2 + 700])
