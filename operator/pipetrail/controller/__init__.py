"""The controller: kopf lives here and nowhere else."""
