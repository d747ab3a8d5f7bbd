"""Who may do what: tokens, and the record of those who were turned away."""
