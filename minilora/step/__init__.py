"""One training step, looked at: each line of its pages, what it takes and what it gives."""
