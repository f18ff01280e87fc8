"""What ``bench`` measured, as values and as a file; and what two such files say about each other."""
