"""Recordings, datasets and what is read from them."""
