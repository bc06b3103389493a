"""One training step to look at: recorded line by line, and drawn.

trace.py: runs the step and records it · watch.py: what a recorder sees of the engine and of the
pages · moments.py: the lines of the model that are worth a look · undoes.py: which term of forward
a line of backward undoes · page.py, page.html: the page for a browser · figure.py: one line, drawn
by Matplotlib.
"""
