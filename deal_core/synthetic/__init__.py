"""Synthetic tabletops: scenes, ray casting, stereo depth noise, and the recording made of them."""
