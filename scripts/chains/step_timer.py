"""Progress of a chain of steps, with an estimate of the time left."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class StepTimer:
    """Runs the steps of a chain and prints about how long is left.

    Attributes:
        plan: seconds of each step as measured on two cores, by title.
        pace: seconds of the last step as a multiple of its planned ones.
    """

    plan: dict[str, float]
    pace: float = 1.0

    def run(self, title: str, step: Callable[[], object]) -> None:
        """Run a step and correct the pace by its duration."""
        titles = list(self.plan)
        left = self.pace * sum(self.plan[later] for later in titles[titles.index(title) :])
        place = f"{titles.index(title) + 1}/{len(titles)}"
        print(f"\n[{place}] {title}: about {format_minutes(left)} left in total", flush=True)
        begin = time.perf_counter()
        step()
        seconds = time.perf_counter() - begin
        # a step that an earlier run finished does not measure the pace
        if seconds > 0.3 * self.plan[title]:
            self.pace = seconds / self.plan[title]
        print(f"[{title}] took {format_minutes(seconds)}", flush=True)


def format_minutes(seconds: float) -> str:
    """Such as `2:05 minutes`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} minutes"
