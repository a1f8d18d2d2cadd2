"""What every node shares: parameters, one worker, starting and stopping the process."""
