"""Holds: values, transitions, ramps, what a hold would touch, and what became of what ran under it. Pure."""
