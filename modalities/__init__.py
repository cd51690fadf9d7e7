"""The domains. Each folder imports multigen and itself, never another modality."""
