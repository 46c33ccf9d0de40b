"""`python benchmarks/scenes.py --processes 2`: throughput of the built-in images, with the drawings cached."""

import argparse
import multiprocessing
import time

from openpali.data.sources.builtin.emoji import EmojiScenes

KINDS: dict[str, dict] = {
    "64 px, 1 to 2 objects": {"size": 64},
    "96 px, 1 to 2 objects": {"size": 96},
    "96 px, 1 to 4 objects of 204": {"size": 96, "objects": (1, 4), "concepts": 204},
    "96 px, with words": {"size": 96, "words": True},
}


def compose(options: dict, start: int, count: int) -> float:
    """Compose `count` scenes from `start` on; returns the CPU seconds."""
    scenes = EmojiScenes(length=start + count, **options)
    before = time.process_time()
    for index in range(start, start + count):
        scenes[index]
    return time.process_time() - before


def main() -> None:
    """Print one line for each kind of scene."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--scenes", type=int, default=2000, help="scenes for each process and kind")
    arguments = parser.parse_args()
    with multiprocessing.get_context("fork").Pool(arguments.processes) as pool:
        for name, options in KINDS.items():
            warm = [(options, 0, 500)] * arguments.processes
            pool.starmap(compose, warm, chunksize=1)
            chunks = [(options, 500 + n * arguments.scenes, arguments.scenes) for n in range(arguments.processes)]
            start = time.perf_counter()
            busy = sum(pool.starmap(compose, chunks, chunksize=1))
            scenes = arguments.scenes * arguments.processes
            rate, alone = scenes / (time.perf_counter() - start), scenes / busy
            print(f"{name:32} {rate:6.0f} scenes/s in {arguments.processes} processes, {alone:6.0f} per CPU-second")


if __name__ == "__main__":
    main()
