"""The use cases of a pause: each takes values and returns values."""
