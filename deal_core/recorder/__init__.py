"""Writes a recording live: pairs, write queue, tag commands, RealSense cameras, the live page."""
