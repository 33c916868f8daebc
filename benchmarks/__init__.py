"""Speed and memory against the limits of the book, as ratios from one run: `make bench`."""
