"""What holds by itself, for the whole fleet: windows, budgets and capacity, judged by the leader alone."""
