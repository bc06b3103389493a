"""Text as ids and back; the tasks: pairs of text, batches, the exact-match score."""
