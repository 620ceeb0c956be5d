"""Studies: methods × units, measured alike, resumable."""
