"""Reading and checking configs; nothing here imports torch."""
