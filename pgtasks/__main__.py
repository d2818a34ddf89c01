"""`python -m pgtasks` is the command `pgtasks`."""

from pgtasks.bin.base import main

if __name__ == "__main__":
    main()
