"""The small local web server that the tagging page and the live page share."""
