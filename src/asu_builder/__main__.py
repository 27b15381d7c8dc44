"""`asu-builder`, which is `python -m asu_builder` too."""

import gc


def main() -> None:
    """Runs the command line; it is loaded without looks for garbage, which cost a twentieth of a start."""
    gc.disable()
    from asu_builder.cli import main as run

    run()


if __name__ == "__main__":
    main()
