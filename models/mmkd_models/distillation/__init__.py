"""How a student learns from teachers: recipes, what they compare, and the learners."""
