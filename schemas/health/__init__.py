"""What a worker's probe reads, what it is judged by, and the holds that a worker places on itself. Values alone."""
