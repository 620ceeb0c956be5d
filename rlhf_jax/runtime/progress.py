"""Progress of a run on the screen: steps done, time left, and the latest metrics.

A terminal shows two live lines. Elsewhere (a pipe, a log file, a notebook) a plain line
is printed for every tenth of the steps, at most every ten seconds and at least every
minute, and at the end.
"""

import contextlib
import time

import rich.console
import rich.live
import rich.progress_bar
import rich.table
import rich.text

from rlhf_jax.runtime import terminal


class Progress:
    """`with Progress(total, title) as bar: bar.update(step, reward=..., kl=...)`.

    `step` counts finished steps. The first step is left out of the rate, because it
    compiles the program, and so is the time spent in `bar.phase("compiling ...")`.
    """

    def __init__(self, total, title, *, console=None, clock=time.monotonic, every=10.0):
        self._total, self._title = max(int(total), 1), title
        self._console = console or terminal.console()
        self._clock, self._every = clock, every
        self._step, self._metrics, self._phase = 0, {}, None
        self._started = self._printed = clock()
        self._first = self._printed_step = 0
        self._origin, self._paused = None, 0.0  # (time, step) the rate is taken from
        self._live = None

    def __enter__(self):
        self._started = self._printed = self._clock()
        if self._console.is_terminal and not self._console.is_jupyter:
            self._live = rich.live.Live(
                console=self._console, get_renderable=self._draw, refresh_per_second=4
            )
            self._live.start()
            terminal.redraws(self._console, True)
        return self

    def __exit__(self, kind, *_):
        if self._live is not None:
            terminal.redraws(self._console, False)
            self._live.stop()
        elif kind is None and self._printed_step < self._step:
            self._print()

    def start_at(self, step):
        """Counts the steps of the run that is resumed as done, but not in the rate."""
        self._first = self._step = self._printed_step = int(step)

    def update(self, step, **metrics):
        """Shows that `step` steps are done (None: as many as before) and the metrics.

        metrics: name → number; the latest value of each name is shown.
        """
        self._step = self._step if step is None else int(step)
        if self._origin is None and self._step > self._first:
            self._origin, self._paused = (self._clock(), self._step), 0.0
        self._metrics.update({k: float(v) for k, v in metrics.items()})
        if self._live is None and self._due():
            self._print()

    @contextlib.contextmanager
    def phase(self, text):
        """Shows what happens between steps: compiling, evaluating, saving."""
        start, outer, self._phase = self._clock(), self._phase, text
        compiling = "compil" in text
        if self._live is None and compiling:
            self._console.print(f"{self._title}: {text} ...", highlight=False)
        try:
            yield
        finally:
            self._phase = outer
            if compiling:
                self._paused += self._clock() - start

    def print(self, *objects):
        """Prints above the live lines."""
        self._console.print(*objects)

    def left(self):
        """Seconds left at the current rate; None before the second step."""
        if self._origin is None or self._step <= self._origin[1]:
            return None
        spent = self._clock() - self._origin[0] - self._paused
        rate = max(spent, 0.0) / (self._step - self._origin[1])
        return rate * max(self._total - self._step, 0)

    def _due(self):
        if self._step >= self._total:
            return self._printed_step < self._step
        silent = self._clock() - self._printed
        tenth = self._step - self._printed_step >= self._total / 10
        return silent >= 6 * self._every or (tenth and silent >= self._every)

    def _print(self):
        self._printed, self._printed_step = self._clock(), self._step
        line = f"{self._title}: {self._count()}  {self._times()}  {self._values()}"
        self._console.print(line.rstrip(), highlight=False, soft_wrap=True)

    def _draw(self):
        grid = rich.table.Table.grid(padding=(0, 1))
        bar = rich.progress_bar.ProgressBar(
            total=self._total, completed=self._step, width=30
        )
        title = rich.text.Text(self._title, style="bold")
        grid.add_row(title, bar, self._count(), rich.text.Text(self._times()))
        doing = self._phase or ("starting" if self._step == self._first else "")
        style = "yellow" if doing else "cyan"
        return rich.console.Group(
            grid, rich.text.Text(f"  {self._values()}  {doing}".rstrip(), style=style)
        )

    def _count(self):
        return f"{self._step}/{self._total}"

    def _times(self):
        left = self.left()
        spent = duration(self._clock() - self._started)
        return f"{spent} spent, {'?' if left is None else duration(left)} left"

    def _values(self):
        return "  ".join(f"{k} {v:.4g}" for k, v in self._metrics.items())


class Preparation:
    """Shows what happens before training: lines, and bars for steps that take time.

    `with Preparation(console) as report: report("loading ...")`, or, as often as there
    is news, `report("pretraining", done=3, total=10, nll=2.1)`. After the block it is
    silent, because the training bar is on the screen.
    """

    def __init__(self, console):
        self._console, self._bar, self._title, self._over = console, None, None, False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._close(*error)
        self._over = True

    def __call__(self, text, *, done=None, total=None, **metrics):
        if self._over:
            return
        if done is None:
            self._close(None, None, None)
            self._console.print(text, highlight=False)
            return
        if self._title != text:
            self._close(None, None, None)
            self._bar = Progress(total, text, console=self._console)
            self._bar.__enter__()
            self._title = text
        self._bar.update(done, **metrics)

    def _close(self, *error):
        if self._bar is not None:
            self._bar.__exit__(*error)
        self._bar = self._title = None


def duration(seconds):
    """Seconds as text for a person: "8 s", "3 min 05 s", "2 h 10 min"."""
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
