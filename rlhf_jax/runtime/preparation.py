"""What happens before training, as a person sees it go."""

from rlhf_jax.runtime import progress


class Preparation:
    """Shows what happens before the first cell: lines, and bars with the time left.

    Afterwards it is silent: then the study's own bar is on the screen.
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
            self._bar = progress.Progress(total, text, console=self._console)
            self._bar.__enter__()
            self._title = text
        self._bar.update(done, **metrics)

    def _close(self, *error):
        if self._bar is not None:
            self._bar.__exit__(*error)
        self._bar = self._title = None
