"""The pivot-translation game as a study: agents, methods, measurements, the page."""
