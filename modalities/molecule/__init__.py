"""Small molecules in three dimensions: coordinates, elements, bonds and formal charges, made together."""
