"""`python -m pgtasks` is the command `pgtasks`."""

from pgtasks.concurrency.patching import maybe_patch_concurrency

__all__ = ("main",)


def main() -> None:
    """Run the command line, and exit."""
    maybe_patch_concurrency()
    # After the patch: this imports nearly everything.
    from pgtasks.bin.base import main as run

    run()


if __name__ == "__main__":
    main()
