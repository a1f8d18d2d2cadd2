"""Files of recordings: read, written, paired, salvaged and repaired."""
