"""The truth in rows: namespaces, holds and what became of each."""
