"""Progress: bars on a terminal, a line every half minute in a log file."""

import sys
import time

import tqdm

LINE_S = 30  # seconds between two lines


class ProgressBars:
    """A progress callback (done, total, phase) for the command line, on stderr: one bar for each phase."""

    def __init__(self, unit="frame"):
        self._unit, self._phase, self._bar, self._start_s, self._line_s = unit, None, None, 0.0, 0.0
        self._done = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done, total, phase):
        """Show that `done` of `total` items of a phase are done."""
        if phase != self._phase or done < self._done:  # or it has begun again
            self.__exit__()
            self._phase, self._start_s = phase, time.monotonic()
            self._line_s = self._start_s
            self._bar = self._open_bar(phase, total) if sys.stderr.isatty() else None
        self._done = done
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._line_s >= LINE_S:
            self._line_s = time.monotonic()
            line = f"{phase}: {done} {self._unit}s"
            if total:
                left_s = (self._line_s - self._start_s) / done * (total - done)
                line = f"{phase}: {done} of {total} {self._unit}s, about {left_s:.0f} s left"
            print(line, file=sys.stderr, flush=True)

    def _open_bar(self, phase, total):
        return tqdm.tqdm(desc=phase, total=total, unit=self._unit, dynamic_ncols=True, delay=1)


def tracked(items, title, total=None, unit="clip", existing=0):
    """Yield the items, and show how many are done: on a terminal by a bar, in a log by a line every half minute.

    total: of all, default: their number where they have one. existing: how many of the total were done before.
    """
    total = len(items) if total is None and hasattr(items, "__len__") else total
    with ProgressBars(unit) as show:
        for done, item in enumerate(items, existing + 1):
            yield item
            show(done, total, title)
