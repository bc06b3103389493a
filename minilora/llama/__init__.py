"""The model: its shape, its parameters, one forward pass, and the generation of text."""
