"""One module an experiment: its question, its command, what to expect."""
