"""A trace of a few steps by jax.profiler."""

import contextlib

import jax


class Trace(contextlib.AbstractContextManager):
    """Traces the first `steps` steps after the one that compiles, into `folder`."""

    def __init__(self, steps, folder):
        self._steps, self._folder, self._done, self._on = steps, folder, 0, False

    def around(self, advance):
        """`advance(state, iteration)` of a trainer, traced while there are steps to."""
        if not self._steps:
            return advance

        def traced(state, iteration):
            if self._done == 1:
                jax.profiler.start_trace(str(self._folder))
                self._on = True
            state, metrics, rows = advance(state, iteration)
            self._done += 1
            if self._on and self._done > self._steps:
                jax.block_until_ready(metrics)
                self._stop()
            return state, metrics, rows

        return traced

    def _stop(self):
        self._on = False
        jax.profiler.stop_trace()

    def __exit__(self, *_):
        if self._on:
            self._stop()
