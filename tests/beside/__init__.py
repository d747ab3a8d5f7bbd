"""Real workers with other people's libraries in force: each a drill, from a lock of its own (`make beside`)."""
