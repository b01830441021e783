"""The command line: ``rebasin``."""

import sys

from rebasin_core.errors import RebasinError

__all__ = ["main"]


def main() -> None:
    """Run the command line; ``rebasin --help`` lists the commands."""
    try:
        import rich  # noqa: F401
        import typer
    except ModuleNotFoundError as error:
        sys.exit(f'The command line needs {error.name}; install it with: pip install "rebasin-core[cli]"')
    from rebasin_core.commands import app

    try:
        app(prog_name="rebasin")
    except RebasinError as error:
        typer.secho(f"Error: {error}", err=True, fg=typer.colors.RED)
        sys.exit(1)


if __name__ == "__main__":
    main()
