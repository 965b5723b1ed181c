"""Measurements: ratios and shares of a core, printed with what they are compared with."""
