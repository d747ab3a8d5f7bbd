"""The verbs: each parses, asks one question, prints, and chooses an exit code."""
