"""``accelerate launch -m multigen.cli train ...`` and ``torchrun -m multigen.cli train ...`` start here."""

from multigen.cli.main import main

if __name__ == "__main__":
    main()
