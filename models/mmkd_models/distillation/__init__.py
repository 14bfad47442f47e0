"""How a student learns from teachers: recipes, methods by name, and the learners."""
