"""The commands of the command line, one file per command; needs typer and rich. Only `cli` may import it.

What they print goes through `rebasin_core.commands.reporting`, how they end through `rebasin_core.commands.group`; no
framework is imported before a file or an option asks for one.
"""
