"""One training loop for every embedded model: stages of batches and losses, resumable to the byte."""
