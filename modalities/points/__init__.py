"""Points in the plane, of a known mixture: the smallest complete modality, to be copied and learned from."""
