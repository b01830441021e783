"""What may move, and moving it: axes, graphs, plans, assignment. Rooms from `inference` upward may import it."""
