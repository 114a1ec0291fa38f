"""`python -m compress`: the same as the `compress` command, which an old Unix program may shadow."""

from compress.cli import main

if __name__ == "__main__":
    main(prog_name="compress")
