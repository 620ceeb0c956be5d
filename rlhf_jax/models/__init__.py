"""Networks by configuration: decoders, encoders, translators, and heads on them."""
