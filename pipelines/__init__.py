"""What runs where: the parameters, the DAG in Hera, and the ways to compile, run and send it."""
