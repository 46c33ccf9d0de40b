"""`python benchmarks/coco_check.py`: time and peak memory of checking a COCO file of the size of instances_train2017.

    python benchmarks/coco_check.py --share 0.1

118,287 images, 860,001 annotations with boxes and polygons of 22 points, as in COCO; every image is a JPEG of its own,
of 64 x 48 pixels. What is measured is what `openpali transfer --check_only` reads before it reports: the file, every
image's header and digest, and every box. `json alone` is Python's parser on the same file, the least that a reader of
the whole file needs. Each runs in a process of its own. `--share 0.1` takes a tenth, to see how both grow.
"""

import argparse
import io
import json
import tempfile
from pathlib import Path

import numpy as np
from measuring import Peak, Results, add_results, cpu_seconds, run_apart
from PIL import Image

IMAGES, ANNOTATIONS, CLASSES, POINTS = 118_287, 860_001, 80, 22
WIDTH, HEIGHT = 64, 48


def write_coco(folder: Path, share: float) -> Path:
    """Images and the file that names them."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 99, np.uint8)).save(buffer, "JPEG")
    images, annotations = (round(share * count) for count in (IMAGES, ANNOTATIONS))
    (folder / "images").mkdir()
    for number in range(images):
        # bytes behind the end of a JPEG are ignored, and make each file another one
        (folder / f"images/{number:012}.jpg").write_bytes(buffer.getvalue() + number.to_bytes(4, "big"))
    path = folder / "instances.json"
    polygon = ", ".join(f"{10 + point % 20}.{point:02}" for point in range(2 * POINTS))
    with path.open("w") as file:
        file.write('{"categories": ')
        json.dump([{"id": number, "name": f"thing {number}"} for number in range(CLASSES)], file)
        rows = (
            f'{{"id": {number}, "file_name": "{number:012}.jpg", "width": {WIDTH}, "height": {HEIGHT}}}'
            for number in range(images)
        )
        file.write(', "images": [' + ",\n".join(rows) + '], "annotations": [')
        rows = (
            f'{{"id": {number}, "image_id": {number % images}, "category_id": {number % CLASSES}, "iscrowd": 0,'
            f' "area": 412.5, "bbox": [10.0, 10.0, 20.5, 20.25], "segmentation": [[{polygon}]]}}'
            for number in range(annotations)
        )
        file.write(",\n".join(rows) + "]}")
    return path


def measure(case: str, path: Path) -> dict[str, float]:
    """CPU seconds and peak memory of one case, in this process."""
    from openpali.data.custom.dataset import CustomSpec, read_custom

    peak, begin = Peak(), cpu_seconds()
    if case == "json alone":
        with path.open() as file:
            kept = len(json.load(file)["images"])
    else:
        read = read_custom(CustomSpec(str(path), "detect", image_root=str(path.parent / "images")))
        kept = sum(map(len, read.good.values()))
    return {"seconds": cpu_seconds() - begin, "gigabytes": peak.gigabytes(), "images": kept}


def main() -> None:
    """Write the data, run both cases, and print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="of COCO's size")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    add_results(parser)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.path)))
        return
    results = Results("coco_check", options.results)
    with tempfile.TemporaryDirectory() as folder:
        path = write_coco(Path(folder), options.share)
        size = path.stat().st_size / 1e6
        rows = {case: run_apart(__file__, case=case, path=path) for case in ("json alone", "check")}
        for case, row in rows.items():
            assert row is not None
            found = f"{row['seconds']:8.1f} CPU s {row['gigabytes']:7.2f} GB, {row['images']:,} images"
            print(f"{case:<12} {found} of a file of {size:.0f} MB", flush=True)
        alone, check = rows["json alone"], rows["check"]
        assert alone
        assert check
        title = f"{check['images']:,} images"
        results.add(title, "json alone", "CPU s", check["seconds"], alone["seconds"])
        results.add(title, "json alone", "GB", check["gigabytes"], alone["gigabytes"])


if __name__ == "__main__":
    main()
