"""How good masks are: metrics, threshold sweeps, results on disk, and pictures of frames."""
