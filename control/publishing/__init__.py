"""Signing what is ordered and putting it where the workers read it."""
