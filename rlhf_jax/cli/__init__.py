"""The command line: flags, presets, run folders, errors that a person can act on."""
