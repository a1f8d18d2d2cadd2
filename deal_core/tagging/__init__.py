"""Tags given by hand after recording: kept on disk, carried to and from other tools, and edited on a page."""
