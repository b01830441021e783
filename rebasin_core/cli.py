"""The command line: ``rebasin``."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; ``rebasin --help`` lists the commands."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ModuleNotFoundError as error:
        sys.exit(f'The command line needs {error.name}; install it with: pip install "rebasin-core[cli]"')
    from rebasin_core.commands.app import app

    app(prog_name="rebasin")


if __name__ == "__main__":
    main()
