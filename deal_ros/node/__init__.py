"""Parts that every node shares: parameters, worker thread, start and stop of the process."""
