"""What can be done, each use case in one place; the command calls nothing else."""
