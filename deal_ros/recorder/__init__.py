"""The recorder node: records pairs of colour and depth with tags."""
