"""A training step here and in PyTorch with PEFT, how its cost grows, and each kernel's speed: the
record and the figures of docs/speed.md. The ways to write a product: the record of notebook 09.

    python -m studies.speed --peer-python PYTHON
"""
