"""Protein sequences: designed for a backbone, or made without one."""
