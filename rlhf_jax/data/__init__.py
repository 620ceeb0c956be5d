"""Text in: where rows come from, how they become arrays, and in which order."""
