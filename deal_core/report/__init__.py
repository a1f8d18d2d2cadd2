"""The page that compares runs, its charts, and the stream for the rerun viewer."""
