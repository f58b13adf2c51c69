"""Training on comparisons: losses, batches, the trainer."""
