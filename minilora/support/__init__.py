"""Tools that know nothing of the project: files, checked values, plots, arrays of shape alone."""
