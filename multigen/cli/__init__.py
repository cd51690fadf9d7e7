"""The console command ``multigen``; ``python -m multigen.cli`` is the same."""
