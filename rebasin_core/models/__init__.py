"""A model as the core sees it: adapters, their abilities, data. Rooms from `line` upward may import it."""
