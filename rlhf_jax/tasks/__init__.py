"""Tasks to study: the microworld, a user's text and models, or prompts alone."""
