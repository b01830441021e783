"""Between networks: mean, loss curve, statistics, pictures. Rooms from `objectives` upward may import it."""
