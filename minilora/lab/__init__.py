"""Comparisons of techniques: many small runs, their settings, tables, figures and pages."""
