"""What the plain recipes share: flags, data, supervised training, a run, its page."""
