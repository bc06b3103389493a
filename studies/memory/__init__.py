"""Bytes of a training step for docs/memory.md: ways to save memory, ops that keep more than they
need, and a figure of bytes against the length of a row.

    python -m studies.memory savers|what-if|figure
"""
