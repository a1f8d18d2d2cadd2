"""Networks that turn an image into class activation maps or masks."""
