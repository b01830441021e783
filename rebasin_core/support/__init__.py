"""Help for every room: checks of settings, progress, a registry, files that appear whole. Any room may import it."""
