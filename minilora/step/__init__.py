"""One training step, recorded line by line and drawn.

trace.py: runs the step and records it · watch.py: observes the engine and the pages · moments.py:
the lines of the model that are worth a look · undoes.py: which term of forward a line of backward
undoes · page.py, page.html: the page for a browser · figure.py: one line, drawn by Matplotlib.
"""
