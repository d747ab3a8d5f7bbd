"""What a worker knows of its host and GPUs: a child process that looks, and the side of the worker that listens."""
