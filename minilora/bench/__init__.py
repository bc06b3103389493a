"""How fast the kernels and a training step of each technique are on this machine, in a minute."""
