"""One module a command of `deal`."""
