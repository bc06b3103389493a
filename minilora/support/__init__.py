"""General tools that use no other room: files, checks of values, plots, arrays without numbers."""
