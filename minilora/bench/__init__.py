"""How fast kernels and training steps are, beside NumPy and PyTorch, and how their cost grows."""
