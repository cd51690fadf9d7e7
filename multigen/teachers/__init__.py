"""Frozen networks of general use, for modalities to make teachers of: pictures, sentences, and what teachers share.

A modality says what is looked at or read (`Pictures.pictures`, `MiniLM.lines`); everything else is the same for all of them.
"""
