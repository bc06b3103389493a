"""Tokenizers, and tasks: pairs of texts, batches and the exact-match score."""
