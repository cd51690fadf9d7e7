"""Examples of varying size, stored once as plain arrays, written with memory for one and read by memory map."""

from multigen.files import lock
from multigen.store.layout import SPLITS, Column, Layout, digest, whole
from multigen.store.read import Store, kept
from multigen.store.write import Writer, prepare

__all__ = ["SPLITS", "Column", "Layout", "Store", "Writer", "digest", "kept", "lock", "prepare", "whole"]
