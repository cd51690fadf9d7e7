"""Configuration to objects. With ``cli/`` the only place that imports Hydra.

A configuration is a plain dict: every interpolation resolved, every component written as ``_target_`` and its parameters. The
one that a run folder stores is complete: sampling and evaluation read nothing else.
"""

from multigen.build.compose import Config, compose, config_dir, groups, options, plain
from multigen.build.make import make

__all__ = ["Config", "compose", "config_dir", "groups", "make", "options", "plain"]
