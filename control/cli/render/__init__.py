"""What verbs print: pure functions from answers to lines and tables."""
