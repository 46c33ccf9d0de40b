"""What several metrics share; each metric has a folder of its own beside this one."""
