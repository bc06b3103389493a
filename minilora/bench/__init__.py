"""How fast, and beside what: kernels, whole training steps, and how their cost grows."""
