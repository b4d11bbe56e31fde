#!/usr/bin/env python
import os
import sys
from pathlib import Path


def main() -> None:
    # The settings are `example_project.settings`, importable from the folder above.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

    from django.core.management import execute_from_command_line  # noqa: PLC0415

    from example_project import embedded  # noqa: PLC0415 - only found with the path above

    try:
        embedded.provide()
    except embedded.EmbeddedServerError as error:
        sys.exit(f"error: {error}")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
