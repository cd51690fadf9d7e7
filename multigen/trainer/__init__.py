"""The training loop."""

from multigen.trainer.loop import Diverged, Observer, Trainer
from multigen.trainer.signals import Interrupted

__all__ = ["Diverged", "Interrupted", "Observer", "Trainer"]
