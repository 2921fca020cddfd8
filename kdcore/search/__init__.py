"""Auto-distillation: the space of configs, what is looked for in it, and what was found."""
