"""Fine-tunes of one base made into one model, file to file."""
