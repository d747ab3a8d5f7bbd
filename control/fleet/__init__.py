"""What is known of the workers: what was last heard of each, what runs, how long tasks take."""
