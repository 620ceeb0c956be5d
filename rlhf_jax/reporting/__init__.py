"""What a run leaves behind: metrics, samples, pictures, a page a person can read."""
